"""Writes measured figures into the manifests of the shipped critics.

    python -m benchmarks.critic_manifests --scores scores.json   # of `benchmarks/critics.py score`

Accuracy, tie threshold and error correlations are read by tables and runs, so they are measured
once from the files that ship and frozen there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.critics import KINDS, SEED, Columns, columns, sets
from evaluation.bias import accuracy_table
from evaluation.calibration import auc
from evaluation.correlation import error_correlation
from evaluation.win_rate import fit_tie_threshold
from rewards.embedded import FOLDER
from rewards.fitted import MANIFEST_FILE

SAME = "round 3, temperature 0.7"


def tie_threshold(
    score: NDArray[Any], rating: NDArray[Any], prompt: NDArray[Any]
) -> tuple[float, float]:
    """Score difference below which two lines tie as often as their ratings do.

    Args:
        score: (N,) a critic's, of lines sampled alike.
        rating: (N,) labels.
        prompt: (N,) ids; lines of one id are compared.

    Returns:
        The threshold in points and the share of pairs with equal ratings.
    """
    members = [np.flatnonzero(prompt == p) for p in np.unique(prompt)]
    equal = []
    for at in members:
        i, j = np.triu_indices(len(at), 1)
        equal.append(rating[at[i]] == rating[at[j]])
    share = float(np.concatenate(equal).mean())
    return fit_tie_threshold([score[at].tolist() for at in members], share), share


def figures(c: Columns, kind: str) -> dict[str, Any]:
    """Accuracy on each set of lines, and the AUC of the fact."""
    out: dict[str, Any] = {}
    for name, lines in sets(c).items():
        keep = lines & ~np.isnan(c[f"{kind}.score"])
        if keep.sum() < 100:
            continue
        table = accuracy_table(
            c[f"{kind}.score"],
            c["rating"],
            c["id"],
            np.random.default_rng(SEED),
            fact=c["fact"],
            keep=keep,
        )
        out[name] = {
            k: [round(v, 3) for v in a.interval[:3]] for k, a in table.items() if a.interval
        }
        out[name]["fact AUC"] = round(auc(c[f"{kind}.fact"][keep], c["fact"][keep] > 0.5), 3)
    return out


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    options = parser.parse_args()
    c = columns(json.loads(options.scores.read_text()))
    roles = json.loads((FOLDER.parent / "roles.json").read_text())
    same = sets(c)[SAME]
    selecting = same & np.isin(c["id"], roles["select"])
    for kind in KINDS:
        path = FOLDER / kind / MANIFEST_FILE
        manifest = json.loads(path.read_text())
        known = ~np.isnan(c[f"{kind}.score"])
        manifest["figures"][options.split] = figures(c, kind)
        if (selecting & known).sum() >= 100:
            at = selecting & known
            threshold, share = tie_threshold(c[f"{kind}.score"][at], c["rating"][at], c["id"][at])
            manifest["tie_threshold"] = round(threshold, 4)
            manifest["tie_share"] = round(share, 4)
        for other in KINDS:
            at = same & known & ~np.isnan(c[f"{other}.score"])
            if other != kind and at.sum() >= 100:
                e = error_correlation(
                    c[f"{kind}.score"][at], c[f"{other}.score"][at], c["rating"][at]
                )
                manifest["error_correlation"][other] = {
                    "partial": round(e.partial, 3),
                    "residual": round(e.residual, 3),
                }
        path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
