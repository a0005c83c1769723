"""Train an experiment's folds:  python src/train.py --experiment cnn_e --fold 0

Without --fold, all folds; with several experiments, all of theirs. On a processor folds are trained side by side,
as many as there are cores. Finished folds are skipped, interrupted ones resume from their last epoch.
Several GPUs train each fold together:  torchrun --nproc_per_node=4 src/train.py --experiment lite0_224
"""

import multiprocessing
import os
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event

from tqdm import tqdm

from commandline import (
    add_experiment,
    add_fold,
    add_set,
    is_deliberate,
    load_workspace,
    make_parser,
    named_experiments,
    pick_folds,
    run_names,
    run_script,
)
from common.commands import command_line
from common.hardware import count_cores, exit_with_parent, pick_device, tune_process
from data.folds import fold_numbers
from data.pixel_store import pixel_settings
from experiment import Experiment
from results.runs import Run, open_run, open_snapshot, run_folder
from results.workspace import Workspace
from training.distributed import first_alone, processes, processes_here, rank, world

GPU_WORKERS = 8


@dataclass(frozen=True)
class Job:
    """One fold of one experiment, as it is handed to a process."""

    workspace: Workspace
    experiment: Experiment
    name: str
    fold: int
    command: str  # that trains the run it belongs to
    workers: int = 0


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    """Trains what is missing; returns each run's scores on its held-out folds."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    add_fold(parser)
    add_set(parser)
    parser.add_argument("--workers", type=int, metavar="N",
                        help=f"processes that read and augment ahead; default: 0, with a GPU up to {GPU_WORKERS}")
    args = parser.parse_args(argv)
    experiments = named_experiments(args)
    if args.workers is not None and args.workers < 0:
        raise ValueError(f"--workers {args.workers}: 0 or more")

    tune_process()  # before torch is imported
    from training.recipe_checks import check_values

    for experiment in experiments.values():
        check_values(experiment)
    workers = _count_workers() if args.workers is None else args.workers
    with processes():
        with first_alone():  # draws the demo and makes its folds where they are missing
            workspace = load_workspace(args)
        for experiment in experiments.values():
            fold_numbers(workspace.table, experiment.split)  # raises ValueError if there is no such split
        commands = {name: command_line("train", workspace.competition, experiment=typed, set=args.set, name=args.name)
                    for name, typed in zip(experiments, run_names(args), strict=True)}
        jobs = [Job(workspace, experiment, name, fold, commands[name], workers)
                for name, experiment in experiments.items() for fold in pick_folds(args.fold, workspace.folds.count)]
        return train_jobs(jobs)


def train_jobs(jobs: list[Job]) -> dict[str, list[float]]:
    """Trains the jobs that are not done, side by side where that pays; returns the scores of all, by run."""
    from training.recipe_checks import check_experiment

    workspace, results = jobs[0].workspace, {}
    competition = workspace.competition
    with first_alone():
        for experiment in {job.experiment for job in jobs if not run_folder(competition, job.name).exists()}:
            for note in check_experiment(experiment, competition):
                _print(f"note: {note}")
        for job in jobs:  # opening a run raises ValueError where it has another recipe
            if _is_trained(run := open_job(job)):
                results[job] = run.result
        todo = [job for job in jobs if job not in results]
        wanted = {pixel_settings(competition, job.experiment): job.experiment for job in todo}
        for experiment in wanted.values():  # once, not in each process
            workspace.store("train", experiment)
    if results:
        _print(f"{len(results)} of {len(jobs)} folds are trained already, in {run_folder(competition, '')}")

    start = time.perf_counter()
    side_by_side = pick_device() == "cpu" and world() == 1
    if side_by_side and (count := min(len(todo), count_cores())) > 1:
        results |= _train_side_by_side(todo, count)
    else:
        for job in todo:
            results[job] = train_job(job, max(1, count_cores() // processes_here()), verbose=rank() == 0)
            _print(_describe(job, results[job]))
    if todo:
        _print(f"trained {len(todo)} folds in {time.perf_counter() - start:.0f} s; compare runs with: "
             f"{command_line('leaderboard', competition)}")
    scores = {}
    for job in jobs:
        scores.setdefault(job.name, []).append(results[job]["score"])
    return scores


def _print(sentence: str) -> None:
    """Prints it once, where several processes train together."""
    if rank() == 0:
        print(sentence)


def _count_workers() -> int:
    """Processes that read ahead: on a GPU a training step takes less time than its images do on the processor."""
    return min(GPU_WORKERS, count_cores() // processes_here()) if pick_device() == "cuda" else 0


def open_job(job: Job) -> Run:
    """The job's run, new or resumed."""
    return open_run(job.workspace.competition, job.name, job.fold, job.experiment, job.workspace.folds.hash,
                    job.command)


def _is_trained(run: Run) -> bool:
    """Whether the fold is done, and so is what it keeps of earlier epochs."""
    return run.is_done and all(open_snapshot(run, epoch).is_done for epoch in run.experiment.snapshots)


def _describe(job: Job, result: dict) -> str:
    failed = "   DID NOT LEARN: its loss is no better than predicting the prevalence"
    metric = job.workspace.competition.metric
    return (f"{job.name:<20} fold {job.fold}   {metric} {result['score']:.4f} on {result['images']} "
            f"images   {result['seconds']:5.0f} s" + ("" if result["learned"] else failed))


def _train_side_by_side(todo: list[Job], workers: int) -> dict[Job, dict]:
    """Trains the jobs in as many processes as there are cores; the first error or Ctrl-C stops them all."""
    from training.fold import prepare_run

    threads = max(1, count_cores() // workers)
    for job in {job.name: job for job in todo}.values():
        prepare_run(open_job(job), job.workspace.competition, job.workspace.table)
    results, spawn = {}, multiprocessing.get_context("spawn")
    stop = spawn.Event()
    bar = tqdm(total=sum(job.experiment.epochs for job in todo), desc="training", unit="epoch", disable=None)
    pool = ProcessPoolExecutor(workers, spawn, _prepare_process, (os.getpid(), stop))
    try:
        pending = {pool.submit(_train_in_process, job, threads): job for job in todo}
        while pending:
            done, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                job = pending.pop(future)
                results[job] = future.result()
                tqdm.write(_describe(job, results[job]))
            bar.update(sum(_epochs_done(job) for job in todo) - bar.n)
    except BaseException as error:
        stop.set()  # the checkpoints keep what is trained so far
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError("a training process was ended from outside, most often because memory ran out. Run the "
                               "command again, it resumes from the last epoch; one --fold at a time needs less "
                               "memory") from error
        raise
    finally:
        bar.close()
        pool.shutdown(wait=True, cancel_futures=True)
    return results


def _epochs_done(job: Job) -> int:
    folder = run_folder(job.workspace.competition, job.name) / f"fold{job.fold}"
    if (folder / "result.json").exists():
        return job.experiment.epochs  # it may have stopped earlier
    log = folder / "log.csv"
    return len(log.read_text().splitlines()) - 1 if log.exists() else 0


def _prepare_process(parent: int, stop: Event) -> None:
    """Sets a training process up; it ends when `stop` is set or the parent process was killed."""
    tune_process()
    exit_with_parent(parent, stop.is_set)


def _train_in_process(job: Job, threads: int) -> dict:
    try:
        return train_job(job, threads, verbose=False)
    except Exception as error:
        error.is_deliberate = is_deliberate(error)  # the traceback, which tells it, does not come back with the error
        raise


def train_job(job: Job, threads: int, verbose: bool) -> dict:
    """Trains one job in this process; returns its result."""
    from training.fold import train_fold

    return train_fold(open_job(job), job.workspace.competition, job.workspace.table, threads, verbose, job.workers)


if __name__ == "__main__":
    run_script(main)
