"""Cases and data sets: which files and targets belong together, and whose scan a case is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from mimzoo.errors import DataError, suggest

SPLITS = ("training", "validation", "unlabelled")
LABELLED = ("training", "validation")


@dataclass(frozen=True)
class Case:
    """One scan: a 3D or 4D file or a file for each channel, its label map, and its row of the table.

    `images` follow the order of `Dataset.channels`; `targets` maps columns to text as it was written. Scans of one
    `subject` never part in a split; a case without a stated subject is a subject of its own, called by its id.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    subject: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.subject:
            object.__setattr__(self, "subject", self.id)

    @property
    def image(self) -> Path:
        """Return the first file: the scan itself unless there is a file for each channel."""
        return self.images[0]


@dataclass(frozen=True)
class Dataset:
    """The cases of a folder by split, and what the folder tells of their labels and channels.

    `labels` maps label values (1..254) to names; `channels` names the channels in the order of the files; `values`
    maps what label files hold to label values where the two differ (205 -> 1), 0 -> 0 implied. Each is empty when the
    folder does not tell. A subject in both training and validation is refused; one that is also among the unlabelled
    is not, for those are seen in pretraining only, where no label is.
    """

    name: str
    folder: Path
    training: tuple[Case, ...] = ()
    validation: tuple[Case, ...] = ()
    unlabelled: tuple[Case, ...] = ()
    labels: dict[int, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    values: dict[int, int] = field(default_factory=dict)

    def cases(self, split: str) -> tuple[Case, ...]:
        """Return the cases of a split; DataError when the split is unknown or has none."""
        if split not in SPLITS:
            raise DataError(f"{self.folder}: unknown split {split!r}; {suggest(split, SPLITS)}")
        found: tuple[Case, ...] = getattr(self, split)
        if not found:
            held = ", ".join(f"{len(getattr(self, name))} {name}" for name in SPLITS)
            raise DataError(f"{self.folder}: there are no {split} cases (it has {held}); list some in dataset.json")
        return found


def nearest(name: str, options: Iterable[str]) -> str:
    """Return "the nearest is 'x'", however far that is: lists of ids are too long to be printed whole."""
    near = get_close_matches(name, list(options), n=1, cutoff=0)
    return f"the nearest is {near[0]!r}" if near else "there is none"


def case_id(name: str) -> str:
    """Return a NIfTI file's name without .nii or .nii.gz."""
    return name.removesuffix(".gz").removesuffix(".nii")
