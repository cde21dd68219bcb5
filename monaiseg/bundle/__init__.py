"""MONAI bundles: building, checking and packing them, and the components that their configurations use."""

from monaiseg.bundle.build import build_bundle, pack_bundle
from monaiseg.bundle.lint import lint_bundle

__all__ = ["build_bundle", "lint_bundle", "pack_bundle"]
