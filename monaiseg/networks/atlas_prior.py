"""Atlas prior: the atlas as part of a network, which starts from its label frequencies instead of from nothing.

*Positions* are template mm along x, y, z; see `monaiseg.atlas`. The atlas depends on the position alone, so a sliding
window adds it once per voxel, after windows have been blended.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils.type_conversion import dtype_numpy_to_torch
from torch import Tensor, nn

from monaiseg.atlas import Atlas, Template
from monaiseg.data import Spacing, index_dtype
from monaiseg.errors import DataError, MonaisegWarning

MOST_COPIES = 32
"""Number of atlases that are kept on the device of the network, a few megabytes each."""


class AtlasPrior(nn.Module):
    """Template and atlas of a network, in its `state_dict` and without gradients.

    A new prior is empty: all classes are equally likely everywhere. It receives its tensors from `learn` or from a state
    dictionary, whatever their shapes.

    Args:
        num_classes: K.
        spacing: voxel size in mm along X, Y, Z of the volumes that the network takes.
    """

    def __init__(self, num_classes: int, spacing: Spacing) -> None:
        super().__init__()
        self.num_classes, self.spacing = num_classes, spacing
        for name, tensor in _empty(num_classes).items():
            self.register_buffer(name, tensor)
        self._parts: tuple[Template, Atlas] | None = None
        self.without: dict[str, Atlas] = {}
        """Atlases without the votes of a training case's person, by case id; only while the network is trained."""
        self._copies: OrderedDict[tuple[int, torch.device], Atlas] = OrderedDict()

    def learn(
        self, template: Template, atlas: Atlas, without: Mapping[str, Atlas] | None = None
    ) -> None:
        """Take over a template and an atlas, and the atlases for the training cases."""
        self._set(_prefixed("template", template.tensors()) | _prefixed("atlas", atlas.tensors()))
        self.without = dict(without or {})

    @property
    def is_empty(self) -> bool:
        """Whether there is no atlas yet."""
        return self.get_buffer("atlas_counts").numel() == 0

    @property
    def template(self) -> Template:
        """The mean training image that scans are registered to."""
        return self._read()[0]

    @property
    def atlas(self) -> Atlas:
        """The atlas for new scans.

        Raises:
            DataError: the tensors are no atlas.
        """
        return self._read()[1]

    def check(self) -> None:
        """Raise DataError if template or atlas are missing, or contradict themselves."""
        template, atlas = self._read()
        template.check()
        atlas.check()
        if atlas.num_classes != self.num_classes:
            raise DataError(f"its atlas has {atlas.num_classes} classes, and it {self.num_classes}")

    def positions(self, image: Tensor, name: str = "the image") -> Tensor:
        """Positions (3, X, Y, Z) of the voxels of an image (C, X, Y, Z); registering it takes a second or two.

        Warns, with the `name` of the image, if it does not resemble the training scans.
        """
        template = self.template
        frame = template.place(template.scan(image.float().cpu(), self.spacing))
        if not template.fits(frame):
            found, least = frame.correlations.tolist(), template.least_correlations.tolist()
            pairs = " and ".join(
                f"{a:.2f} (at least {b:.2f})" for a, b in zip(found, least, strict=True)
            )
            warnings.warn(
                f"{name}: does not resemble the scans that the atlas was made from: its body has {frame.size:.2g} of their "
                f"size, and it correlates with them by {pairs}; look at what it labels",
                MonaisegWarning,
                stacklevel=2,
            )
        return frame.positions()

    def coordinates(self, positions: Tensor) -> Tensor:
        """Positions (B, 3, X, Y, Z) as inputs of the network, about -1 to 1 within the template."""
        if self.is_empty:
            return positions / 100
        reach = self.template.lattice.half_extent_mm.to(positions).clamp(min=1e-6)
        return positions / reach.view(3, 1, 1, 1)

    def logits(self, positions: Tensor, cases: Sequence[str] | None = None) -> Tensor:
        """Log-probabilities (B, K, N) of all classes at positions (B, 3, N).

        Args:
            positions: template mm.
            cases: the training cases that the positions are of; their own votes are left out. None: of new scans.
        """
        if self.is_empty:
            return positions.new_zeros(len(positions), self.num_classes, positions.shape[2])
        atlases = [self.without.get(case, self.atlas) for case in cases or [""] * len(positions)]
        priors = [
            self._on(atlas, positions.device).log_prior(points.T.float())
            for atlas, points in zip(atlases, positions, strict=True)
        ]
        return torch.stack(priors).transpose(1, 2)

    def add_to(self, scores: Tensor, positions: Tensor) -> Tensor:
        """Scores (K, N) with the log-probabilities at positions (3, N) added, up to a constant for all classes.

        Only the few classes that the atlas keeps at a position are changed, in place.
        """
        atlas = self._on(self.atlas, scores.device)
        classes, logs = (part.T for part in atlas.kept(positions.T.to(scores.device)))
        raised = scores.gather(0, classes) + (logs - atlas.rest)
        return scores.scatter_(0, classes, raised)

    def _on(self, atlas: Atlas, device: torch.device) -> Atlas:
        """One of this prior's atlases on a device. Copies of the `MOST_COPIES` that were used last are kept."""
        key = (id(atlas), device)
        copy = self._copies.pop(key, None)
        self._copies[key] = atlas.to(device) if copy is None else copy
        if len(self._copies) > MOST_COPIES:
            self._copies.popitem(last=False)
        return self._copies[key]

    def _read(self) -> tuple[Template, Atlas]:
        if self._parts is None:
            buffers = {name: buffer.cpu() for name, buffer in self.named_buffers(recurse=False)}
            if self.is_empty:
                raise DataError("the network has no atlas yet; train it, or load a checkpoint")
            self._parts = (
                Template.from_tensors(_of(buffers, "template")),
                Atlas.from_tensors(_of(buffers, "atlas")),
            )
        return self._parts

    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace buffers; those of equal shape keep their place in memory, which weight averaging relies on."""
        self._forget()
        for name, tensor in tensors.items():
            buffer = getattr(self, name)
            if buffer.shape == tensor.shape:
                buffer.copy_(tensor)
            else:
                setattr(self, name, tensor.clone().to(buffer.device))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load buffers of any shape, unlike other modules: the size of an atlas depends on the data."""
        for name, buffer in list(self.named_buffers(recurse=False)):
            given = state_dict.get(prefix + name)
            if given is not None and given.shape != buffer.shape and given.dtype == buffer.dtype:
                setattr(self, name, torch.empty_like(given, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._forget()

    def _forget(self) -> None:
        """Forget what was made from earlier buffers."""
        self._parts = None
        self._copies.clear()


def _empty(num_classes: int) -> dict[str, Tensor]:
    """Buffers of a prior without atlas, with the types and numbers of axes of those of any other."""
    indices = dtype_numpy_to_torch(index_dtype(num_classes))
    lattice = {"shape": torch.zeros(3).long(), "cell_mm": torch.zeros(3).double()}
    template = lattice | {
        "image": torch.zeros(0, 0, 0).half(),
        "deviation": torch.zeros(3),
        "correlations": torch.zeros(0, 2),
    }
    atlas = lattice | {
        "counts": torch.zeros(0).byte(),
        "classes": torch.zeros(0, dtype=indices),
        "logs": torch.zeros(0).half(),
        "frequencies": torch.zeros(num_classes),
    }
    return {
        name: tensor.clone()
        for name, tensor in (_prefixed("template", template) | _prefixed("atlas", atlas)).items()
    }


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}_{name}": tensor for name, tensor in tensors.items()}


def _of(buffers: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}_"
    return {name.removeprefix(start): b for name, b in buffers.items() if name.startswith(start)}
