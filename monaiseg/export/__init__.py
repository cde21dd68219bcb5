"""Export: a trained network as one ONNX file, and the program that runs it without torch."""

from monaiseg.export.model_file import export_onnx
from monaiseg.export.runner import runner_script

__all__ = ["export_onnx", "runner_script"]
