"""What a run directory has to say, for a report: metrics, evaluations, how it ended; each may be missing."""

import dataclasses
import os

from catdpo_analysis.behaviour.rates import Behaviour
from catdpo_analysis.behaviour.run_answers import read_answers
from catdpo_analysis.errors import UserError
from catdpo_analysis.files.authors import Authorship
from catdpo_analysis.files.authors import read as read_authors
from catdpo_analysis.files.evaluations import read_evaluations
from catdpo_analysis.files.run_data import Evaluation, Metrics, read_metrics
from catdpo_analysis.files.settings import read_settings
from catdpo_analysis.files.status import Status, read_status
from catdpo_analysis.files.step_log import StepLog


@dataclasses.dataclass
class Run:
    path: str
    metrics: Metrics | None
    before: Evaluation | None
    after: Evaluation | None
    status: Status | None
    answers: list[Behaviour]  # of the models before, while and after training
    settings: dict  # {"group.key": value}
    authorship: Authorship | None  # of the data
    missing: list  # names of files
    notes: list

    @property
    def categories(self):
        """Names and harm flags of all parts, in the order of the first part that has them."""
        harm = {}
        for part in (self.metrics, self.before, self.after):
            for name, flag in zip(part.categories, part.harm) if part else ():
                harm[name] = bool(harm.get(name, False) or flag)
        return harm


def read_authorship(settings, metrics):
    """Who wrote the pairs that the run was trained on, if its file is still there and says so."""
    path, digest = settings.get("data.path"), metrics.about.get("data_digest") if metrics else None
    if not path or not os.path.isfile(path):
        return None
    try:
        return read_authors(path, digest)
    except UserError:
        return None  # another file lies there by now


def read_run(path, before=None, after=None):
    """Everything that is there. `before`, `after`: evaluation files elsewhere."""
    if not os.path.isdir(path):
        raise UserError(f"there is no run directory {path}; it is run.dir in the trainer's config")
    file = os.path.join(path, "metrics.h5")
    metrics = read_metrics(file) if os.path.exists(file) else None
    found, status = read_evaluations(path, metrics, before, after), read_status(path)
    parts = {"metrics.h5": metrics, "eval-before.h5": found.before, "eval-after.h5": found.after}
    if not any(parts.values()):
        if status and status.failed:
            raise UserError(f"{path}: the run failed before its first step: {status.reason} ({status.place})")
        raise UserError(f"{path} has none of metrics.h5, eval-before.h5 and eval-after.h5; name the directory of a run")
    settings = read_settings(path)
    missing = [name for name, part in {**parts, "config.json": settings}.items() if not part]
    log = StepLog(os.path.join(path, "log.jsonl"))
    log.poll()
    answers, unfit = read_answers(path, metrics.about.get("weights_digest") if metrics else None)
    notes = [*([log.warning] if log.warning else []), *found.notes, *unfit]
    authorship = read_authorship(settings, metrics)
    notes += authorship.warnings() if authorship else []
    return Run(path, metrics, found.before, found.after, status, answers, settings, authorship, missing, notes)
