import asyncio
import functools
import inspect
import pickle
import random

import pytest

from rewards.bridges import (
    from_pairwise_judge,
    from_trl_reward,
    from_verifiers,
    to_pairwise_judge,
    to_trl_reward,
)
from rewards.calls import CriticError
from rewards.fakes import (
    AlwaysFirst,
    CountsWord,
    FailingJudge,
    Honest,
    LongerWins,
    ScorerAsJudge,
    ScorerAsRanker,
)
from rewards.lift import Lifted
from rewards.prior import shown_order
from rewards.reward import CompositeReward
from rewards.wrappers import BothOrders


def chat(role, *texts):
    return [[{"role": role, "content": text}] for text in texts]


class Down:
    name = "down"

    def score(self, prompts, jokes):
        raise CriticError("no network")


# ---- to TRL


def test_strings_and_chats_get_the_critics_scores_and_none_is_kept():
    reward = to_trl_reward(Honest({("p", "a"): 1.5, ("p", "b"): -2.0}))
    more = {"completion_ids": [[1], [2], [3]], "trainer_state": None, "other_column": [0, 0, 0]}
    plain = reward(prompts=["p"] * 3, completions=["a", "b", "new"], **more)
    assert plain == [1.5, -2.0, None]
    system = {"role": "system", "content": "be funny"}
    prompts = [[system, *x] for x in chat("user", "p", "p", "p")]
    completions = chat("assistant", "a", "b", "new")
    assert reward(prompts=prompts, completions=completions, **more) == plain
    assert reward.__name__ == "fake:honest"


def test_content_in_parts_and_without_text():
    reward = to_trl_reward(CountsWord("ha"))
    parts = [{"type": "text", "text": "ha "}, {"type": "image"}, {"type": "text", "text": "ha"}]
    call = {"role": "assistant", "content": None, "tool_calls": []}
    completions = [[{"role": "assistant", "content": parts}], [call], []]
    assert reward(prompts=["p"] * 3, completions=completions) == [2.0, 0.0, 0.0]


def test_the_sentence_may_stand_in_a_column():
    reward = to_trl_reward(Honest({("The bus left.", "a"): 1.0}), column="literal")
    prompts = ["Make this funny: The bus left."]
    assert reward(prompts=prompts, completions=["a"], literal=["The bus left."]) == [1.0]
    with pytest.raises(ValueError, match="reads column 'literal', the data has none"):
        reward(prompts=prompts, completions=["a"])


def test_a_judge_is_asked_in_both_orders_and_lifted_over_the_group():
    prompts, jokes = ["p", "p", "q", "q"], ["a b c", "a", "b", "b c"]
    assert to_trl_reward(AlwaysFirst())(prompts=prompts, completions=jokes) == [0.5] * 4
    ranked = to_trl_reward(LongerWins())(prompts=prompts, completions=jokes)
    assert ranked[0] > 0.9 > 0.1 > ranked[1]
    lone = to_trl_reward(LongerWins())(prompts=["p"], completions=["a"])
    assert lone == [None]
    anchored = Lifted(BothOrders(LongerWins()), anchors={"p": ["a b"]})
    assert to_trl_reward(anchored)(prompts=["p"], completions=["a"])[0] < 0.1
    ranker = to_trl_reward(ScorerAsRanker(CountsWord("a")))
    assert ranker(prompts=["p", "p"], completions=["a", "b"]) == [1.0, 0.0]


def test_a_whole_reward_with_its_gates():
    reward = to_trl_reward(CompositeReward(CountsWord("ha")), name="humor")
    assert reward(prompts=["p", "p"], completions=["ha ha", ""]) == [2.0, -1.0]
    assert reward.__name__ == "humor"


def test_a_failed_call_is_none_by_cause_and_its_share_is_logged():
    logged = {}
    reward = to_trl_reward(Down())
    given = {"prompts": ["p", "p"], "completions": ["a", "b"]}
    assert reward(**given, log_metric=logged.__setitem__) == [None, None]
    assert logged == {"critic/unscored_rate": 1.0}
    assert reward.counts.metrics() == {"critic/failed/CriticError": 2.0}


def test_the_async_form_is_seen_as_such_and_both_forms_can_be_pickled():
    reward = to_trl_reward(CountsWord("ha"), run_async=True)
    assert inspect.iscoroutinefunction(reward.__call__)
    assert asyncio.run(reward(prompts=["p"], completions=["ha"])) == [1.0]
    for form in (reward, to_trl_reward(CountsWord("ha"))):
        assert pickle.loads(pickle.dumps(form)).__name__ == "fake:counts-word"


def test_what_is_no_critic_and_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="got a int, need a critic"):
        to_trl_reward(3)
    with pytest.raises(ValueError, match="2 prompts and 1 completions"):
        to_trl_reward(CountsWord())(prompts=["p", "p"], completions=["a"])


# ---- from TRL


def test_a_reward_function_gets_what_it_declares():
    def plain(completions, **kwargs):
        assert set(kwargs) == {"prompts", "log_extra", "log_metric"}
        kwargs["log_metric"]("seen", len(completions))
        return [float(len(c)) if c else None for c in completions]

    async def slim(prompts, completions):
        return [float(c == p) for p, c in zip(prompts, completions, strict=True)]

    critic = from_trl_reward(plain)
    assert critic.score(["p", "p"], ["abc", ""]) == [3.0, None]
    assert (critic.name, critic.metrics) == ("plain", {"seen": 2})
    assert from_trl_reward(slim).score(["p", "q"], ["p", "p"]) == [1.0, 0.0]
    assert critic.score([], []) == []


def test_chat_columns_and_token_ids_are_supplied_on_demand():
    def func(prompts, completions, completion_ids, answer):
        texts = [c[0]["content"] for c in completions]
        assert [p[0] for p in prompts] == [{"role": "user", "content": "p"}] * 2
        return [
            len(ids) + 10.0 * (text == right)
            for ids, text, right in zip(completion_ids, texts, answer, strict=True)
        ]

    critic = from_trl_reward(
        func, chat=True, columns=lambda prompt: {"answer": prompt * 2}, encode=list
    )
    assert critic.score(["p", "p"], ["pp", "abc"]) == [12.0, 3.0]


def test_what_nobody_supplies_is_refused_at_once():
    def needs_answer(completions, answer):
        return [1.0]

    def needs_ids(completions, completion_ids):
        return [1.0]

    def needs_state(completions, trainer_state):
        return [float(trainer_state)] * len(completions)

    with pytest.raises(ValueError, match="needs_answer needs the argument 'answer'"):
        from_trl_reward(needs_answer)
    with pytest.raises(ValueError, match="give encode="):
        from_trl_reward(needs_ids)
    with pytest.raises(ValueError, match="'trainer_state'"):
        from_trl_reward(needs_state)
    fixed = from_trl_reward(functools.partial(needs_state, trainer_state=2))
    assert fixed.score(["p"], ["a"]) == [2.0]
    with pytest.raises(ValueError, match="needs a function"):
        from_trl_reward("some/reward-model")


def test_nan_is_none_a_short_answer_is_refused_and_failures_go_their_way():
    nan = from_trl_reward(lambda completions: [float("nan"), 1.0], name="odd")
    assert nan.score(["p"] * 2, ["a", "b"]) == [None, 1.0]
    assert nan.counts.metrics() == {"critic/failed/not finite": 1.0}
    with pytest.raises(ValueError, match="odd gave 2 answers for 3"):
        nan.score(["p"] * 3, ["a", "b", "c"])

    async def down(completions):
        raise TimeoutError

    lifted = Lifted(from_trl_reward(down))
    assert lifted.score(["p"], ["a"]) == [None]
    assert lifted.causes == {"TimeoutError": 1}


def test_it_also_works_where_a_loop_runs():
    async def func(completions):
        return [1.0 for _ in completions]

    async def notebook():
        return from_trl_reward(func).score(["p"], ["a"])

    assert asyncio.run(notebook()) == [1.0]


def test_there_and_back_is_the_critic_itself():
    critic = Honest({("p", "a"): 1.5})
    back = from_trl_reward(to_trl_reward(critic))
    assert back.score(["p", "p"], ["a", "new"]) == critic.score(["p", "p"], ["a", "new"])


# ---- TRL's former judges


class HalfJudge:
    """As TRL's judges were, its own shuffling included."""

    def __init__(self, table):
        self.table, self.asked = table, []

    def judge(self, prompts, completions, shuffle_order=True):
        flip = [shuffle_order and random.random() < 0.5 for _ in prompts]
        shown = [c[::-1] if f else c for c, f in zip(completions, flip, strict=True)]
        self.asked += [tuple(c) for c in shown]
        ranks = [self.table[tuple(c)] for c in shown]
        return [1 - r if f else r for r, f in zip(ranks, flip, strict=True)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_minus_one_is_none_in_either_order(shuffle):
    for i in range(20):  # with shuffling about half of them are turned round
        a, b = f"a {i}", f"b {i}"
        failed = HalfJudge({(a, b): -1, (b, a): -1})
        judge = from_pairwise_judge(failed, shuffle_order=shuffle)
        assert judge.compare(["p"], [a], [b]) == [None]
        assert judge.counts.metrics() == {"critic/failed/no verdict": 1.0}
        fine = HalfJudge({(a, b): 0, (b, a): 1})  # a is better
        judge = from_pairwise_judge(fine, shuffle_order=shuffle)
        assert judge.compare(["p", "p"], [a, b], [b, a]) == [1.0, 0.0]


def test_a_rank_that_is_no_index_is_none():
    judge = from_pairwise_judge(HalfJudge({("a", "b"): 2, ("b", "a"): 0.5}))
    assert judge.compare(["p", "p"], ["a", "b"], ["b", "a"]) == [None, None]
    assert judge.counts.metrics() == {"critic/failed/out of range": 2.0}


def test_orders_are_decided_by_content_and_never_by_the_judge():
    inner = HalfJudge({(x, y): 0 for x in "abc" for y in "abc"})
    from_pairwise_judge(inner).compare(["p"] * 2, ["a", "b"], ["b", "c"])
    assert inner.asked == [("a", "b"), ("b", "c")]
    inner.asked.clear()
    shuffled = from_pairwise_judge(inner, shuffle_order=True)
    shuffled.compare(["p"] * 2, ["a", "b"], ["b", "a"])
    assert inner.asked == [shown_order("p", "a", "b")] * 2


def test_scores_of_a_judge_that_has_them():
    class Scores:
        def judge(self, prompts, completions, shuffle_order=True, return_scores=False):
            return [0.8, 1.2] if return_scores else [0, 0]

    judge = from_pairwise_judge(Scores(), return_scores=True)
    assert judge.compare(["p"] * 2, ["a", "a"], ["b", "c"]) == [0.8, None]
    with pytest.raises(ValueError, match="without judge"):
        from_pairwise_judge(AlwaysFirst())


def test_a_critic_answers_as_a_pairwise_judge():
    critic = ScorerAsJudge(Honest({("p", "a"): 1.0, ("p", "b"): 0.0}), slot=5.0)
    rows = {"prompts": ["p"] * 3, "completions": [["a", "b"], ["b", "a"], ["a", "new"]]}
    judge = to_pairwise_judge(BothOrders(critic))
    assert judge.judge(**rows) == [0, 1, -1]
    first, second, missing = judge.scores(**rows)
    assert (first + second, missing) == (1.0, None)
    chats = [[chat("assistant", x)[0] for x in pair] for pair in rows["completions"]]
    assert judge.judge(prompts=chat("user", "p", "p", "p"), completions=chats) == [0, 1, -1]
    leaning = to_pairwise_judge(critic)
    assert leaning.judge(**rows, shuffle_order=False) == [0, 0, -1]
    one, other, _ = leaning.judge(**rows)
    assert {one, other} == {0, 1}  # consistent, whichever way the pair comes


def test_ties_go_by_content_not_to_the_first():
    judge = to_pairwise_judge(BothOrders(AlwaysFirst()))
    pairs = [[f"a {i}", f"b {i}"] for i in range(200)]
    best = judge.judge(["p"] * 200, pairs)
    assert sum(best) / 200 == pytest.approx(0.5, abs=0.12)
    assert judge.judge(["p"] * 200, [x[::-1] for x in pairs]) == [1 - x for x in best]


def test_there_and_back_keeps_failures():
    inner = FailingJudge(LongerWins(), share=0.5)
    back = from_pairwise_judge(to_pairwise_judge(inner))
    a, b = [f"a {i} x" for i in range(50)], [f"b {i}" for i in range(50)]
    answers = back.compare(["p"] * 50, a, b)
    assert set(answers) == {1.0, None}
    assert back.compare(["p"] * 50, b, a).count(1.0) == 0
    with pytest.raises(ValueError, match="need as many, of 2"):
        to_pairwise_judge(inner).judge(["p"], [["a", "b", "c"]])
    with pytest.raises(ValueError, match="need a judge"):
        to_pairwise_judge(CountsWord())


# ---- verifiers


def test_only_declared_arguments_are_passed_sync_or_async():
    def legacy(completion, prompt):
        return len(completion[0]["content"]) + len(prompt[0]["content"])

    async def v1(task, state) -> float:
        await asyncio.sleep(0)
        return float(state["completion"] == task["right"])

    assert from_verifiers(legacy).score(["p"], ["abc"]) == [4.0]
    critic = from_verifiers(v1, chat=False, supply=lambda p, j: {"right": p})
    assert critic.score(["p", "q"], ["p", "p"]) == [1.0, 0.0]
    everything = from_verifiers(lambda **given: len(given), name="all")
    assert everything.score(["p"], ["a"]) == [5.0]


def test_an_exception_is_none_with_a_cause_and_never_zero():
    def plain(completion):
        return 1.0 / len(completion)

    async def slow(completion):
        return 1.0 / len(completion)

    for func in (plain, slow):
        critic = from_verifiers(func, chat=False)
        assert critic.score(["p"] * 3, ["ab", "", "a"]) == [0.5, None, 1.0]
        assert critic.counts.metrics() == {"critic/failed/ZeroDivisionError": 1.0}


def test_a_method_of_a_task_reads_a_supplied_trace():
    class Task:
        async def funny(self, trace):
            return {"humor": trace["n"], "fact": 1}

    supply = lambda prompt, joke: {"trace": {"n": len(joke)}}  # noqa: E731
    critic = from_verifiers(Task().funny, supply=supply, key="humor")
    assert critic.score(["p"], ["abc"]) == [3.0]
    assert critic.name == "funny"
    with pytest.raises(ValueError, match="scores humor, fact; name one by key="):
        from_verifiers(Task().funny, supply=supply).score(["p"], ["abc"])
    missing = from_verifiers(Task().funny, supply=supply, key="mood")
    assert missing.score(["p"], ["abc"]) == [None]
    with pytest.raises(ValueError, match="needs the argument 'trace'"):
        from_verifiers(Task().funny)


def test_group_functions_see_the_jokes_of_one_prompt():
    def ranks(completions):
        best = max(map(len, completions))
        return [float(len(c) == best) for c in completions]

    critic = from_verifiers(ranks, chat=False)
    assert critic.score(["p", "q", "p", "q"], ["a", "abc", "ab", "b"]) == [0, 1, 1, 0]

    def broken(prompts, completions):
        if prompts[0] == "q":
            raise KeyError("q")
        return [1.0] * len(completions)

    critic = from_verifiers(broken, chat=False)
    assert critic.score(["p", "q", "q"], ["a", "b", "c"]) == [1.0, None, None]
    assert critic.counts.metrics() == {"critic/failed/KeyError": 2.0}


# ---- inside TRL's own trainer

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}Funny : {% endif %}"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("run_async", [False, True])
@pytest.mark.parametrize("messages", [False, True])
def test_a_critic_trains_for_two_steps_in_grpo(word_base, tmp_path, run_async, messages):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    seen = []

    class SometimesNone:
        name = "sometimes"

        def score(self, prompts, jokes):
            seen.append((list(prompts), list(jokes)))
            return [None if i == 0 else float(j.count("a")) for i, j in enumerate(jokes)]

    tokenizer = AutoTokenizer.from_pretrained(word_base, padding_side="left")
    tokenizer.chat_template = TEMPLATE
    texts = ["the cat sat .", "my dog ran ."]
    rows = [{"prompt": p, "literal": t} for p, t in zip(chat("user", *texts), texts, strict=True)]
    if not messages:
        rows = [{"prompt": f"Literal : {t} Funny :", "literal": t} for t in texts]
    trainer = GRPOTrainer(
        model=str(word_base),
        reward_funcs=to_trl_reward(SometimesNone(), column="literal", run_async=run_async),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert len(seen) == 2
    for prompts, jokes in seen:
        assert set(prompts) < set(texts)
        assert all(isinstance(joke, str) for joke in jokes)
    steps = [log for log in trainer.state.log_history if "critic/unscored_rate" in log]
    assert [log["critic/unscored_rate"] for log in steps] == [0.25, 0.25]
    for log, (_, jokes) in zip(steps, seen, strict=True):
        known = [float(j.count("a")) for j in jokes[1:]]  # the None is in no mean
        assert log["rewards/sometimes/mean"] == pytest.approx(sum(known) / 3, abs=1e-6)
