"""What a checkpoint of nnssl says of itself: its adaptation plan, and how the axes of its volumes lie in a scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from mimzoo.checkpoints import Rule
from mimzoo.errors import WeightsError
from mimzoo.recipes import Input, Size, Spacing, ZScore
from mimzoo_peers.describe import name_channels

Value = TypeVar("Value")
Turn = tuple[int, int, int]

# How all readers of nnU-Net and nnssl hand over a scan's axes, before the plan's `transpose_forward`.
READ = "zyx"
# Tensors of a pretraining that its encoder is without.
OTHERS = [
    Rule(r"(?:.+\.)?(?:decoder|up_projection)\..+", None, "belongs to the decoder of pretraining"),
    Rule(r"(?:projector|\w+_proj_head)\..+", None, "belongs to a head of pretraining"),
    Rule(r"(?:.+\.)?mask_token", None, "stands for hidden tokens in pretraining"),
]


@dataclass(frozen=True)
class Plan:
    """What an adaptation plan says, sizes in the order of the axes of its training volumes; little where there is none.

    `axes` are those axes, such as "zyx"; "xyz" where nothing is said of them. `keys` tell where the names of the
    network's parts begin, `built` with which arguments it was built.
    """

    keys: Mapping[str, Any]
    built: Mapping[str, Any]
    axes: str
    crop: Size | None
    spacing_mm: Spacing
    masked: bool

    def key(self, name: str, usual: str) -> str:
        """Return where the names of a part begin."""
        return str(self.keys.get(name) or usual)

    def check(self, found: Mapping[str, Any]) -> None:
        """Raise WeightsError where the plan has another number than was found in the tensors."""
        for key in (key for key in found if key in self.built):
            said, seen = _plain(self.built[key]), _plain(found[key])
            # One number may stand for all stages.
            alike = [said] * len(seen) if isinstance(seen, list) and not isinstance(said, list) else said
            if alike != seen:
                raise WeightsError(f"its adaptation plan says {key} {said}, but its tensors say {seen}")

    def check_layers(self, computed: Mapping[str, str]) -> None:
        """Raise WeightsError where the plan names another class of layers than the one that is computed here."""
        for key, name in computed.items():
            said = self.built.get(key)
            if isinstance(said, str) and said.split(".")[-1] != name:
                raise WeightsError(f"its adaptation plan says {key} {said}, but only {name} is computed here")


def read_plan(content: Mapping[str, Any]) -> Plan:
    """Return what the adaptation plan in a checkpoint says of its network and of the scans that it was shown.

    Raises WeightsError for a plan that is not written as nnssl does.
    """
    plan = _below(content, "nnssl_adaptation_plan")
    try:
        return _plan(plan, _below(plan, "pretrain_plan"))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise WeightsError(f"its adaptation plan is not one of nnssl's ({error})") from None


def _plan(plan: Mapping[str, Any], pretraining: Mapping[str, Any]) -> Plan:
    # A trainer keeps the one configuration that it uses.
    used: Mapping[str, Any] = next(iter(_below(pretraining, "configurations").values()), {})
    crop = plan.get("pretrain_patch_size") or used.get("patch_size")
    # Without a spacing, scans were left at theirs, of which the median is known.
    spacing = used.get("spacing") or pretraining.get("original_median_spacing_after_transp") or (1, 1, 1)
    order = pretraining.get("transpose_forward")
    channels = {key: value for key, value in plan.items() if key == "pretrain_num_input_channels"}
    return Plan(
        keys={key: value for key, value in plan.items() if key.startswith("key")},
        built={**_below(_below(plan, "architecture_plans"), "arch_kwargs"), **channels},
        axes="xyz" if order is None else "".join(triple([READ[axis] for axis in order], str)),
        crop=crop and triple(crop, int),
        spacing_mm=triple(spacing, float),
        masked=any(used.get("use_mask_for_norm") or ()),
    )


def _below(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = mapping.get(key)
    return found if isinstance(found, Mapping) else {}


def triple(values: Any, kind: type[Value]) -> tuple[Value, Value, Value]:
    """Return a number for each of three axes: the one for all of them, or the three."""
    first, second, third = (values,) * 3 if isinstance(values, int | float) else values
    return kind(first), kind(second), kind(third)  # type: ignore[call-arg]


def _plain(value: Any) -> Any:
    """Return a value with lists for its sequences."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def turn_of(axes: str) -> Turn:
    """Return which axes of a training volume are X, Y and Z, where `axes` names them in order."""
    return axes.index("x"), axes.index("y"), axes.index("z")


def turned(values: Sequence[Value], turn: Turn) -> tuple[Value, Value, Value]:
    """Return the values for X, Y and Z of those for a training volume's axes."""
    return values[turn[0]], values[turn[1]], values[turn[2]]


def turn_kernels(tensors: Mapping[str, Tensor], turn: Turn) -> dict[str, Tensor]:
    """Return the tensors with their convolutions' kernels along X, Y and Z.

    On volumes whose axes are X, Y and Z such layers make the same maps, whose axes are X, Y and Z too.
    """
    # (D, C, kernel's axes) -> (D, C, KX, KY, KZ)
    order = (0, 1, *(2 + axis for axis in turn))
    return {name: each.permute(order).contiguous() if each.dim() == 5 else each for name, each in tensors.items()}


def note_axes(plan: Plan, given: str | None) -> tuple[str, ...]:
    """Return what is to be known of the axes where the plan tells them and no option does."""
    if given is not None or plan.axes == "xyz":
        return ()
    return (f"axes {plan.axes}, by its adaptation plan: kernels, strides and positions were turned to X, Y and Z",)


def input_of(plan: Plan, channels: int, crop: Size, turn: Turn) -> Input:
    """Return how nnssl prepares scans: each z-scored by itself, at the plan's spacing, which for OpenMind is 1 mm.

    One channel is taken to be MR, as in OpenMind (MIC-DKFZ/nnssl, preprocessing and experiment_planning).
    """
    intensity = ZScore(mode="zscore", voxels="nonzero" if plan.masked else "all")
    return Input(
        channels=name_channels(channels, "MR"), spacing_mm=turned(plan.spacing_mm, turn), intensity=intensity, crop=crop
    )
