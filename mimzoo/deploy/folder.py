"""Masks of many scans in one folder: what is done stays done, what fails stops nothing, processes share the work."""

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from mimzoo.deploy.choice import Choice
from mimzoo.deploy.claims import Claims
from mimzoo.deploy.components import Polish, fitted, polished
from mimzoo.deploy.doubts import doubts
from mimzoo.deploy.files import CaseProgress, Files, make_folder, reading, sentence_of, split_files, targets_of
from mimzoo.deploy.memory import Manner, memory_left, told_bytes
from mimzoo.deploy.models import Deployed, Predictor, open_model
from mimzoo.deploy.overlapping import FAILURES, Line, ending_cleanly
from mimzoo.deploy.overlays import FOLDER as OVERLAYS
from mimzoo.deploy.overlays import as_labels, draw_overlay
from mimzoo.deploy.records import FOLDER as RECORDS
from mimzoo.deploy.records import (
    Content,
    Maker,
    Record,
    Source,
    read_record,
    read_records,
    record_path,
    remove_leftovers,
    set_aside,
    shown,
    write_record,
)
from mimzoo.deploy.statistics import TABLE, TREE, measure, write_statistics
from mimzoo.errors import DataError, ExportError, ScanError
from mimzoo.masks import LabelMap, RegionMap, region_paths
from mimzoo.nifti import SUFFIXES, stem_of
from mimzoo.volume import Volume

Note = Callable[[str], object]
# Files of one scan in a folder, a channel each, as nnU-Net names them: case_0000.nii.gz, case_0001.nii.gz ...
CHANNEL = re.compile(r"(.+)_([0-9]{4})")
# Settings of a manner that leave the masks as they are.
SPARING = {"batch", "memory_bytes"}
# What is claimed by whoever writes the statistics; no scan is called so.
SUMMING_UP = "/statistics"


def segment_files(
    model: str | Path,
    scans: Sequence[str | Path],
    out_dir: str | Path,
    progress: CaseProgress | None = None,
    choice: Choice | None = None,
    manner: Manner | None = None,
    note: Note | None = None,
    polish: Polish | None = None,
) -> tuple[list[Path], list[str]]:
    """Return the masks in `out_dir`, <scan's stem>.nii.gz each, and one sentence for each scan that failed.

    A scan of several files is written `first.nii.gz,second.nii.gz`, in the order of the model's channels, and its mask
    is called after the first; regions have a file each, <stem>-<region>.nii.gz. A folder stands for the scans in it,
    see `list_scans`. Beside the masks lie records/<stem>.json, overlays/<stem>.png, statistics.csv and statistics.json.

    A scan is done where its record says so, of the same file, model and settings, and where its masks are still those
    that were written; it is not done again. Several processes may work on one folder: each scan is done by one of them,
    and each waits until all are done. A scan that fails does not stop the others. The next scan is read and the last
    one is written while one is computed, where memory allows.

    No file is lost. A file under a mask's name that is not this scan's by its record stays there, and the scan fails;
    a mask that was changed since it was written is renamed to <mask>.kept-1, or the next free number, before the new
    one takes its place.

    Masks are put right as `polish` says. `progress(done, total, scan)` is called after each scan, `note(sentence)` with
    what runs the model, with the memory that a scan will take, with what is doubtful about it, and with each mask that
    is kept (from the thread that writes).
    Raises DataError, before anything is done, when two scans would have one mask or a mask would overwrite a scan, and
    ExportError for a model that draws no masks.
    """
    segment = open_model(model, choice, manner)
    if isinstance(segment, Predictor):
        raise ExportError(f"{segment.path}: this model draws no masks but tells of scans; use `mimzoo predict`")
    folder = Path(out_dir)
    task = segment.metadata.task
    chosen = fitted(polish or Polish(), task.names)
    listed, faults = list_scans(scans, len(segment.input.channels), folder)
    targets = targets_of(listed, folder, task.regions)
    for place in (folder, folder / RECORDS, folder / OVERLAYS):
        make_folder(place)
    tell = note or (lambda sentence: None)
    tell(_engine(segment))
    if segment.manner.memory_bytes is not None:
        segment.graph.warm(segment.manner.batch)
    with closing(Claims(folder / RECORDS)) as claims, ending_cleanly():
        work = Work(segment, chosen, folder, claims, progress, tell, len(targets))
        jobs = [Job(files, target, faults.get(files)) for files, target in targets.items()]
        try:
            left = work.do(jobs)
            if left:
                tell(f"{len(left)} scan(s) are another process's; waiting until they are done")
            for job in left:
                claims.wait(job.name)
                work.do([job])
        finally:
            work.sum_up()
        failures = [work.failures[job] for job in jobs if job in work.failures]
        return [path for job in jobs for path in work.done[job]], failures


def _engine(model: Deployed) -> str:
    """Return what runs a model, and why nothing before it in the order does."""
    others = "".join(f"; not {name}: {reason}" for name, reason in model.graph.passed.items())
    return f"run by {model.graph.about}{others}"


def list_scans(scans: Sequence[str | Path], channels: int, out_dir: Path) -> tuple[list[Files], dict[Files, str]]:
    """Return the files of each scan, and one sentence for each whose files cannot be its channels.

    A folder stands for the scans directly in it, by name, hidden files left out. Where a model sees several channels,
    files in a folder that are named as nnU-Net does, case_0000.nii.gz, case_0001.nii.gz and so on, are one scan; their
    numbers must be 0000 and all that follow, each once.
    Raises DataError for a folder without scans, or that is the folder of the masks as well.
    """
    found: list[Files] = []
    faults: dict[Files, str] = {}
    for scan in scans:
        folder = Path(scan)
        if not folder.is_dir():
            found.append(split_files(scan))
            continue
        if out_dir.resolve() == folder.resolve():
            raise DataError(f"{folder}: masks among the scans would be taken for scans; choose another folder for them")
        inside = sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and p.name[0] != ".")
        if not inside:
            raise DataError(f"{folder}: holds no scans; they are files that end in .nii or .nii.gz")
        groups = _grouped(inside) if channels > 1 else {path.name: {path: 0} for path in inside}
        for case, numbers in groups.items():
            found.append(tuple(numbers))
            fault = _misnumbered(case, numbers)
            if fault is not None:
                faults[found[-1]] = fault
    return found, faults


def _grouped(paths: Sequence[Path]) -> dict[str, dict[Path, int]]:
    """Return the files of each scan with the numbers of their channels."""
    groups: dict[str, dict[Path, int]] = defaultdict(dict)
    for path in paths:
        match = CHANNEL.fullmatch(stem_of(path))
        groups[match[1] if match else path.name][path] = int(match[2]) if match else 0
    return groups


def _misnumbered(case: str, numbers: Mapping[Path, int]) -> str | None:
    """Return what is wrong with the numbers of a scan's files, in their order; None where they count up from 0."""
    paths = list(numbers)
    for number, path in enumerate(paths):
        if numbers[path] > number:
            remedy = "add it, or name the files of the scan one by one"
            return f"{path}: there is no {case}_{number:04}.nii.gz, though channels are numbered from 0000 on; {remedy}"
        if numbers[path] < number:
            return f"{path} and {paths[number - 1].name} are both channel {numbers[path]:04} of one scan; remove one"
    return None


@dataclass(frozen=True)
class Job:
    """A scan, the mask that is to be made of it, and why that cannot be where its files tell so."""

    files: Files
    target: Path
    fault: str | None = None

    @property
    def name(self) -> str:
        """Return what the scan's record, overlay and rows are called after."""
        return shown(stem_of(self.target))


@dataclass(frozen=True)
class Seen:
    """A scan as it was read, what its files were then, the memory that it takes, and what is doubtful about it."""

    files: tuple[Source, ...]
    volume: Volume
    need_bytes: int
    warnings: tuple[str, ...]


@dataclass
class Work:
    """The work of one process on a folder: masks `done` and sentences of `failures`, by scan."""

    segment: Deployed
    polish: Polish
    folder: Path
    claims: Claims
    progress: CaseProgress | None
    tell: Note
    total: int
    done: dict[Job, list[Path]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[Job, str] = field(default_factory=dict)
    passed: int = 0

    def __post_init__(self) -> None:
        """Settle what makes the masks, as records tell it."""
        manner = {name: value for name, value in asdict(self.segment.manner).items() if name not in SPARING}
        settings = {
            **manner,
            "overlap": self.segment.overlap,
            "precision": self.segment.graph.choice.precision,
            **self.polish.settings(),
        }
        # as JSON holds it, so that it can be compared with what is read
        plain = TypeAdapter(dict[str, JsonValue]).validate_json(TypeAdapter(dict).dump_json(settings))
        self.maker = Maker(card=self.segment.card, model_sha256=self.segment.graph.sha256, settings=plain)

    def do(self, jobs: Sequence[Job]) -> list[Job]:
        """Do what nobody else does; return the jobs that other processes hold."""
        left: list[Job] = []
        line = Line(self._read, self._compute, self._write, self._beside)
        for job, outcome in line.run(self._open(jobs, left)):
            if isinstance(outcome, Record):
                self.done[job] = [self.folder / name for name in outcome.masks]
            else:
                self._note_failure(job, sentence_of(outcome, job.files))
            self._pass(job)
        return left

    def sum_up(self) -> None:
        """Write the statistics of all scans in the folder, whichever process did them."""
        self.claims.wait(SUMMING_UP)
        remove_leftovers([self.folder / TABLE, self.folder / TREE])
        write_statistics(self.folder, self.maker, read_records(self.folder))
        self.claims.release(SUMMING_UP)

    def _open(self, jobs: Sequence[Job], left: list[Job]) -> Iterator[Job]:
        """Yield the jobs that are still to be done, each of them now this process's."""
        for job in jobs:
            if not self.claims.take(job.name):
                left.append(job)
                continue
            shutil.rmtree(self._begun(job), ignore_errors=True)
            record = self._record(job)
            if record is not None and self._is_done(job, record):
                self.done[job] = [self.folder / name for name in record.masks]
            elif job.fault is None and (refusal := self._refusal(job, record)) is not None:
                self.failures[job] = shown(refusal)
            else:
                yield job
                continue
            self._pass(job)

    def _is_done(self, job: Job, record: Record) -> bool:
        with suppress(OSError):
            files = tuple(map(Source.of, job.files))
            return record.files == files and record.maker == self.maker and record.holds(self.folder)
        return False

    def _masks(self, job: Job) -> list[Path]:
        regions = self.segment.metadata.task.regions
        return list(region_paths(job.target, regions).values()) if regions else [job.target]

    def _record(self, job: Job) -> Record | None:
        """Return what was done with a scan before."""
        return read_record(record_path(self.folder, job.name))

    def _refusal(self, job: Job, record: Record | None) -> str | None:
        """Return why the masks of a scan cannot be written: something that is none of them is there, and must stay."""
        scan = ",".join(map(str, job.files))
        names = record.names() if record is not None else {}
        remedy = "choose another folder, or move it away"
        if record is not None and not record.is_of(job.files):
            for mask in map(self.folder.joinpath, names):
                if os.path.lexists(mask):
                    owner = ",".join(file.path for file in record.files)
                    return f"{mask}: is a mask of {owner}, which that of {scan} would replace; {remedy}"
        for mask in self._masks(job):
            if mask.name not in names and os.path.lexists(mask):
                return f"{mask}: is there already, and no record says that it is a mask of {scan}; {remedy}"
        return None

    def _overlay(self, job: Job) -> Path:
        return self.folder / OVERLAYS / f"{job.name}.png"

    def _beside(self, job: Job, current: Job) -> bool:
        """Return whether there is memory for a scan beside another, which counts in full although it is read."""
        left = memory_left(self.segment.manner)
        try:
            return left is None or sum(map(self._plan, (job, current))) <= left
        except FAILURES:
            return False

    def _plan(self, job: Job) -> int:
        """Return the memory (bytes) that a scan will take; ScanError where it cannot be segmented, by what is known."""
        with reading(job.files):
            if job.fault is not None:
                raise ScanError(job.fault)
            return self.segment.plan(job.files, bool(self.polish))[1]

    def _read(self, job: Job) -> Seen:
        remove_leftovers([self._overlay(job), record_path(self.folder, job.name)])
        need = self._plan(job)
        files = tuple(map(Source.of, job.files))
        with reading(job.files):
            volume = self.segment.read(job.files)
        return Seen(files, volume, need, doubts(volume, self.segment.input))

    def _compute(self, job: Job, seen: Seen) -> tuple[Seen, LabelMap | RegionMap]:
        for warning in seen.warnings:
            self.tell(f"warning: {warning}")
        self.tell(f"{job.files[0].name}: at most {told_bytes(seen.need_bytes)} of memory beside the network")
        agreement, drawn = self.segment.agreement, self.segment(seen.volume)
        if self.segment.agreement and agreement is None:
            self.tell(self.segment.agreement)
        assert isinstance(drawn, LabelMap | RegionMap)  # as the task's kind says
        return seen, drawn

    def _write(self, job: Job, made: tuple[Seen, LabelMap | RegionMap]) -> Record:
        seen, drawn = made
        before = self._record(job)
        if self.polish:
            drawn = polished(drawn, self.polish)
        with self._beginning(job) as begun:
            if isinstance(drawn, RegionMap):
                files = dict(zip(drawn.save(begun / job.target.name), drawn.masks.items(), strict=True))
                maps = {path: LabelMap(mask, drawn.grid, {1: name}) for path, (name, mask) in files.items()}
            else:
                drawn.save(begun / job.target.name)
                maps = {begun / job.target.name: drawn}
            draw_overlay(self._overlay(job), seen.volume, as_labels(drawn))
            record = Record(
                scan=job.name,
                files=seen.files,
                maker=self.maker,
                run_by=self.segment.graph.about,
                warnings=seen.warnings,
                channels=self.segment.input.channels,
                masks={path.name: Content.of(path) for path in maps},
                left=_left(job, before),
                labels=tuple(row for path, mask in maps.items() for row in measure(path.name, mask, seen.volume)),
            )
            self._put(job, begun, before, record)
        return record

    def _put(self, job: Job, begun: Path, before: Record | None, record: Record) -> None:
        """Give masks their names, once a record tells what they hold: a kill at any moment leaves none unknown."""
        refusal = self._refusal(job, before)
        if refusal is not None:
            raise DataError(refusal)
        for mask in map(self.folder.joinpath, record.masks):
            if before is not None and os.path.lexists(mask) and not before.wrote(mask):
                self.tell(shown(f"{mask}: is not as it was written, so it is kept, as {set_aside(mask).name}"))
        write_record(self.folder, record)
        for name in record.masks:
            (begun / name).replace(self.folder / name)

    def _begun(self, job: Job) -> Path:
        return self.folder / RECORDS / f"{job.name}.begun"

    @contextmanager
    def _beginning(self, job: Job) -> Iterator[Path]:
        """Yield a folder for the masks of a scan until they get their names; nothing of it stays."""
        begun = self._begun(job)
        begun.mkdir()
        try:
            yield begun
        finally:
            shutil.rmtree(begun, ignore_errors=True)

    def _note_failure(self, job: Job, sentence: str) -> None:
        self.failures[job] = sentence = shown(sentence)
        # A disk that is full has no room for this either.
        with suppress(OSError):
            before = self._record(job)
            # Whatever the record here tells of files that are not this scan's must still be told.
            if self._refusal(job, before) is None:
                record = Record(
                    scan=job.name,
                    files=tuple(map(Source.named, job.files)),
                    maker=self.maker,
                    run_by=self.segment.graph.about,
                    failure=sentence,
                    left=_left(job, before),
                )
                write_record(self.folder, record)

    def _pass(self, job: Job) -> None:
        self.claims.release(job.name)
        self.passed += 1
        if self.progress is not None:
            self.progress(self.passed, self.total, shown(job.files[0].name))


def _left(job: Job, record: Record | None) -> dict[str, Content]:
    """Return what was written of a scan before, by its record."""
    return record.names() if record is not None and record.is_of(job.files) else {}
