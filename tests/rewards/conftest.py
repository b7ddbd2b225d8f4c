"""Labels of ten prompts, made on the spot; session-wide, read only."""

import json
from pathlib import Path

import pytest

PROMPTS = [
    "The cat slept on the laptop.",
    "I lost my keys again.",
    "The bus was late this morning.",
    "My neighbour bought a drum kit.",
    "The soup boiled over.",
    "Grandma learned to text.",
    "The gym was full on Monday.",
    "Our printer jammed twice.",
    "The dog ate a sock.",
    "It rained on the picnic.",
]


def _jokes(prompt: str) -> list[tuple[str, str, int]]:
    body = prompt.rstrip(".")
    return [
        (f"{body}, and now it wants a raise.", "student2-t0.7", 5),
        (f"{body}, so we called it a hobby.", "student2-t0.7", 4),
        (f"{body}.", "student2-t0.7", 2),
        ("Blue of the seven and under a lamp.", "student2-t0.7", 0),
        (f"Nobody saw that {body.lower()}.", "rl1-40-t0.7", 3),
        ("A polished joke by another hand.", "teacher", 8),
    ]


@pytest.fixture(scope="session")
def tiny_labels(tmp_path_factory) -> Path:
    """A file of judgments of ten prompts."""
    file = tmp_path_factory.mktemp("labels") / "judgments.jsonl"
    records = [
        {
            "id": f"p-{i}",
            "text": prompt,
            "candidates": [
                {
                    "text": joke,
                    "source": source,
                    "evaluations": [
                        {"rating": rating, "fact_kept": rating >= 2, "comment": "as it is"}
                    ],
                }
                for joke, source, rating in _jokes(prompt)
            ],
        }
        for i, prompt in enumerate(PROMPTS)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file
