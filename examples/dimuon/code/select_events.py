"""Select dimuon candidates: one pair of well-measured muons of opposite charge for each event."""

import argparse
import csv
import math
from pathlib import Path

MUON_MASS = 0.1056584  # GeV


def muon(row: dict[str, str], number: int) -> tuple[float, float, float, float]:
    """Energy and momentum of one muon of a pair, in GeV."""
    px, py, pz = (float(row[f"{axis}{number}"]) for axis in ("px", "py", "pz"))
    return math.sqrt(px**2 + py**2 + pz**2 + MUON_MASS**2), px, py, pz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=Path, required=True, help="pairs of muons, CSV")
    parser.add_argument("--min-pt", type=float, required=True, help="transverse momentum of each muon, GeV")
    parser.add_argument("--mass", type=float, nargs=2, required=True, metavar=("LOW", "HIGH"), help="GeV")
    parser.add_argument("--output", type=Path, required=True, help="selected candidates, CSV")
    arguments = parser.parse_args()
    low, high = arguments.mass

    counts = {"pairs": 0, "both global muons": 0, "opposite charge": 0, "transverse momentum": 0}
    best: dict[tuple[str, str], tuple[float, float]] = {}
    with arguments.events.open(newline="") as file:
        for row in csv.DictReader(file):
            counts["pairs"] += 1
            if row["type"] != "GG":
                continue
            counts["both global muons"] += 1
            if int(row["q1"]) + int(row["q2"]) != 0:
                continue
            counts["opposite charge"] += 1
            first, second = muon(row, 1), muon(row, 2)
            softer_pt = min(math.hypot(first[1], first[2]), math.hypot(second[1], second[2]))
            if softer_pt < arguments.min_pt:
                continue
            counts["transverse momentum"] += 1
            energy, px, py, pz = (a + b for a, b in zip(first, second, strict=True))
            mass = math.sqrt(energy**2 - px**2 - py**2 - pz**2)
            # An event with three muons gives several pairs: the one whose softer muon is hardest counts.
            best[row["run"], row["event"]] = max(
                (softer_pt, mass), best.get((row["run"], row["event"]), (0, 0))
            )

    counts["one pair per event"] = len(best)
    selected = {event: mass for event, (_, mass) in best.items() if low <= mass < high}
    counts["mass window"] = len(selected)

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "event", "mass"])
        writer.writerows([*event, f"{mass:.4f}"] for event, mass in selected.items())
    for name, count in counts.items():
        print(f"{name:>20}: {count:5d}")


if __name__ == "__main__":
    main()
