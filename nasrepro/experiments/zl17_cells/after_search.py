"""What is made of cells after a search: known ones and the best are trained from other seeds, on words, over a grid."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from nasrepro.dsl import Cell, zoo
from nasrepro.experiments.arms import Searches, difference, not_recorded
from nasrepro.experiments.zl17_cells import best_cell
from nasrepro.experiments.zl17_cells.analysis import Run, evaluations_as_recorded
from nasrepro.experiments.zl17_cells.sizes import CellsSizes
from nasrepro.report import stats
from nasrepro.search.record import Evaluation
from nasrepro.trainers.outcome import PERPLEXITY

Champions = Mapping[tuple[str, int], tuple[Cell, float]]
"""The best cell of each search, by arm and seed, and the loss by which it was chosen."""


def cells_by_seed(evaluations: Iterable[Evaluation], names: Mapping[str, str]) -> pd.DataFrame:
    """A row for each training of a named cell. Columns: name, seed, valid_ppl (nan for a failure), parameters.

    `names` are by the cells' hashes, in the order of the rows.
    """
    order = list(names)
    rows = [
        [names[one.hash], one.seed, PERPLEXITY.of(one), one.parameters]
        for one in sorted(evaluations, key=lambda one: (order.index(one.hash), one.seed))
    ]
    return pd.DataFrame(rows, columns=["name", "seed", "valid_ppl", "parameters"]).astype({"valid_ppl": float})


def over_seeds(trained: pd.DataFrame) -> pd.DataFrame:
    """Each named cell over its seeds, from `cells_by_seed`, a row a cell.

    Columns: parameters, seeds, failed (how many), mean, low and high (bootstrap interval, nan for fewer than three).
    """
    rows = {}
    for name, part in trained.groupby("name", sort=False):
        learned = part["valid_ppl"].dropna()
        edges = stats.interval(learned) or (np.nan, np.nan)
        counted = [part["parameters"].iloc[0], len(part), len(part) - len(learned)]
        rows[name] = [*counted, learned.mean(), *edges]
    columns = ["parameters", "seeds", "failed", "mean", "low", "high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("cell")


def on_words_told(trained: pd.DataFrame) -> str:
    """How NASCell does against the LSTM, from `cells_by_seed`, for people."""
    lstm, nas = (trained.loc[trained["name"] == name, "valid_ppl"].dropna() for name in ("LSTM", "NASCell"))
    if lstm.empty or nas.empty:
        return "There is nothing to compare yet: one of the two has no training that came to its end."
    gap, edges = difference(lstm, nas)
    spoken = f"Welch's 95% interval {edges[0]:+.1f} to {edges[1]:+.1f}" if edges else "too few seeds for an interval"
    shown = stats.told(edges, "NASCell is better", "the LSTM is better", "no difference is shown")
    return f"LSTM less NASCell: **{gap:+.1f}** perplexity ({spoken}): {shown}, by a recipe that was tuned for neither."


def best_found(searches: Searches) -> dict[tuple[str, int], tuple[Cell, float]]:
    """The best cell of each search and its perplexity; a search in which all failed has none."""
    return {
        key: (cell, search.losses[cell.hash] or np.nan)
        for key, search in searches.items()
        if (cell := best_cell([search])) is not None
    }


def found_by(champions: Champions) -> dict[str, str]:
    """Which searches found each cell, by its hash, from `best_found`: controllers of one seed begin alike."""
    names: dict[str, str] = {}
    for (arm, seed), (cell, _) in champions.items():
        names[cell.hash] = f"{names[cell.hash]}; {arm} {seed}" if cell.hash in names else f"{arm} {seed}"
    return names


def fallen_back(trained: pd.DataFrame, champions: Champions) -> pd.DataFrame:
    """`over_seeds` of cells, with the loss by which a search chose them: nan for those that none chose."""
    names = found_by(champions)
    chosen = {names[cell.hash]: loss for cell, loss in champions.values()}
    table = over_seeds(trained)
    return table.assign(chosen=[chosen.get(str(name), np.nan) for name in table.index])


def best_of_ours(champions: Champions, words: Mapping[str, str]) -> dict[str, tuple[Cell, str]]:
    """The best cell of the controllers, of those that search with max and sin, and of random search, the best first.

    By what it is; with it, its arm in `words` and its loss.
    """
    found: dict[str, tuple[Cell, str]] = {}
    for (arm, _), (cell, loss) in sorted(champions.items(), key=lambda item: item[1][1]):
        kind = {"larger space": "our best with max and sin", "random": "the best of random search"}.get(arm, "our best")
        found.setdefault(kind, (cell, f"{kind}: {words[arm]}, perplexity {loss:.2f}"))
    return found


def fallen_told(table: pd.DataFrame) -> str:
    """By how much the best cells fall back, and whether they beat the LSTM, from `fallen_back`, for people."""
    chosen = table.dropna(subset="chosen")
    if chosen.empty:
        return not_recorded("The best cells from more seeds")
    back = chosen["mean"] - chosen["chosen"]
    edges = stats.interval(back)
    spoken = f"95% interval over cells {edges[0]:+.2f} to {edges[1]:+.2f}" if edges else "too few cells for an interval"
    said = f"The best cells of the searches fall back by **{back.mean():+.2f}** perplexity on average ({spoken})."
    if "LSTM" not in table.index:
        return said
    lstm, found = table.loc["LSTM"], chosen["mean"]
    better = int((found < lstm["mean"]).sum())
    return said + (
        f" Trained again they reach {found.min():.2f} to {found.max():.2f}, the LSTM {lstm['mean']:.2f}: {better} of "
        f"{len(found)} are better. But they have {chosen['parameters'].max():,} parameters and the LSTM "
        f"{lstm['parameters']:,.0f}, so this does not say that they are better cells."
    )


def best_by_arm(searches: Searches) -> dict[str, Cell]:
    """The best cell of all searches of each arm, which the grid search goes on with."""
    arms = dict.fromkeys(arm for arm, _ in searches)
    found = {arm: best_cell([one for (name, _), one in searches.items() if name == arm]) for arm in arms}
    return {arm: cell for arm, cell in found.items() if cell is not None}


def grid_as_recorded(run: Run, best: Mapping[str, Cell], words: Mapping[str, str]) -> pd.DataFrame:
    """The grid search over the LSTM and the best cell of each arm: a row a point, as words, a column a cell.

    Values are validation perplexities from the first of the seeds, nan where training failed or is not recorded. Points
    of which nothing is recorded are left out. `words` names the arms.
    """
    sizes: CellsSizes = run.sizes
    cells = [zoo["LSTM"], *best.values()]
    names = {zoo["LSTM"].hash: "LSTM"}
    for arm, cell in best.items():
        names[cell.hash] = f"{names[cell.hash]}; {words[arm]}" if cell.hash in names else words[arm]
    rows = {}
    for point, task in (sizes.grid.tasks(sizes.task) if sizes.grid else {}).items():
        made = evaluations_as_recorded(run, cells, sizes.best_seeds[:1], task)
        if made:
            rows[point] = {names[one.hash]: PERPLEXITY.of(one) for one in made}
    return pd.DataFrame.from_dict(rows, orient="index").astype(float).rename_axis("point of the grid")


def grid_told(table: pd.DataFrame) -> str:
    """At which point of the grid each cell is best, from `grid_as_recorded`, for people: the best cell first."""
    best = table.min().dropna().sort_values()
    lines = [f"- **{cell}**: {loss:.2f}, at {table[cell].idxmin()}" for cell, loss in best.items()]
    return "The lowest perplexity of each cell on the grid, from one seed:\n\n" + "\n".join(lines)
