"""Cross-validated scores of runs and blends."""

from results.adopted_rules import metric_values
from results.runs import Oof
from results.workspace import Workspace
from scoring.confidence_intervals import score_interval
from scoring.metrics import METRICS

# columns of the leaderboard with scores that are only reported
REPORTED_SCORES = ("public", "private", "test", "official_validation", "holdout")


def cross_validated(workspace: Workspace, oof: Oof) -> tuple[float, float, float]:
    """The competition's metric on the out-of-fold predictions of a complete run, and its 95 % interval over groups.

    Returns score, lower and upper end. If the metric scores decisions, the run's rule makes them, fitted on the other
    folds.
    """
    competition, values = workspace.competition, metric_values(workspace, oof)
    cv = METRICS[competition.metric].score(workspace.targets, values, competition.task)
    return cv, *score_interval(competition.metric, workspace.targets, values, competition.task, workspace.groups)
