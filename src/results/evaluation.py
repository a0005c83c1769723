"""Cross-validated scores of runs and blends."""

from results.adopted_rules import metric_values
from results.runs import Oof
from results.workspace import Workspace
from scoring.confidence_intervals import score_interval
from scoring.metrics import METRICS


def cross_validated(workspace: Workspace, oof: Oof) -> tuple[float, float, float]:
    """The competition's metric on the out-of-fold predictions of a whole run, and its 95 % interval over groups.

    Decisions, where the metric wants them, are made by the run's policy, fitted on the other folds.
    """
    competition, values = workspace.competition, metric_values(workspace, oof)
    cv = METRICS[competition.metric].score(workspace.targets, values, competition.task)
    return cv, *score_interval(competition.metric, workspace.targets, values, competition.task, workspace.groups)
