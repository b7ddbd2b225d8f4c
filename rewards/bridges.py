"""Bridges: Punchline's critics in other trainers, and theirs here. None of them is imported.

A missing verdict stays missing on every way: TRL's None, a judge's -1, an exception in a verifiers
function, which both those libraries would turn into a number.
"""

from rewards.trl_judges import from_pairwise_judge, to_pairwise_judge
from rewards.trl_rewards import from_trl_reward, to_trl_reward
from rewards.verifiers_rewards import from_verifiers

__all__ = [
    "from_pairwise_judge",
    "from_trl_reward",
    "from_verifiers",
    "to_pairwise_judge",
    "to_trl_reward",
]
