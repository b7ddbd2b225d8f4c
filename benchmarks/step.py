"""Times one PPO update on the real student, part by part.

    python benchmarks/step.py [--updates 3] [--threads 0]

Prints seconds a part (minimum and median over updates) and jokes a second. Run it alone: a second
busy process changes every figure.
"""

import argparse
import statistics
import time

import torch

from agents.configs import PPOConfig, RunConfig
from agents.ppo import PPO
from agents.student import Student
from training.parts import make_critics, make_env, make_reward, prompt_sets


def main() -> None:
    """Time `--updates` updates after one that warms up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--train-layers", type=int)
    parser.add_argument("--critic", default="embedded")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    run = RunConfig(critic=options.critic)
    ppo = PPOConfig(train_layers=options.train_layers)
    began = time.perf_counter()
    student = Student.load(run.student)
    print(f"load      {time.perf_counter() - began:6.1f} s")
    reward = make_reward(run, ppo, make_critics(run, student), student)
    env = make_env(run, ppo, prompt_sets(run), reward)
    env.reset(seed=0)
    agent = PPO(ppo, student, seed=0)
    parts: dict[str, list[float]] = {"sample": [], "reward": [], "reference": [], "update": []}
    _timed(student, "generate", parts["sample"])
    _timed(env, "step", parts["reward"])
    _timed(student, "reference_logps", parts["reference"])
    _timed(agent, "update", parts["update"])
    for _ in range(options.updates + 1):
        student.start_reader().forget()
        reward.forget()
        agent.update(agent.collect(env))
    total = 0.0
    for name, seconds in parts.items():
        warm = seconds[1:]
        total += statistics.median(warm)
        print(f"{name:<9} {min(warm):6.1f} s min {statistics.median(warm):6.1f} s median")
    speed = ppo.jokes_per_update / total
    print(
        f"update    {total:6.1f} s for {ppo.jokes_per_update} jokes: "
        f"{speed:.1f} jokes/s, {torch.get_num_threads()} threads"
    )


def _timed(owner: object, name: str, seconds: list[float]) -> None:
    inner = getattr(owner, name)

    def outer(*args: object, **kwargs: object) -> object:
        began = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - began)

    setattr(owner, name, outer)


if __name__ == "__main__":
    main()
