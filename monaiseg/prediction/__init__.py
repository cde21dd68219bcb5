"""Prediction: apply a checkpoint to images, giving label maps with the images' own grids."""

from monaiseg.prediction.adaptation import as_evaluated, with_settings
from monaiseg.prediction.cohort import predict_files, volumes_csv
from monaiseg.prediction.predictor import PredictedFile, Predictor, Progress, prediction_bytes

__all__ = [
    "PredictedFile",
    "Predictor",
    "Progress",
    "as_evaluated",
    "predict_files",
    "prediction_bytes",
    "volumes_csv",
    "with_settings",
]
