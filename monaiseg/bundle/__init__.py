"""The MONAI bundle: building, checking and packing it, and the components that its configurations name."""

from monaiseg.bundle.build import build_bundle, pack_bundle
from monaiseg.bundle.lint import lint_bundle

__all__ = ["build_bundle", "lint_bundle", "pack_bundle"]
