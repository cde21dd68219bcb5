"""Prediction: apply a checkpoint to images, giving label maps with the images' own grids."""

from monaiseg.prediction.adaptation import as_evaluated, with_settings
from monaiseg.prediction.cohort import predict_files
from monaiseg.prediction.jobs import Job, Share, jobs_of
from monaiseg.prediction.portable import read_portable
from monaiseg.prediction.predictor import (
    PredictedFile,
    Predictor,
    Progress,
    outside_note,
    prediction_bytes,
)
from monaiseg.prediction.run import predict_cohort
from monaiseg.prediction.summary import Summary, recorded, volumes_csv, write_volumes

__all__ = [
    "Job",
    "PredictedFile",
    "Predictor",
    "Progress",
    "Share",
    "Summary",
    "as_evaluated",
    "jobs_of",
    "outside_note",
    "predict_cohort",
    "predict_files",
    "prediction_bytes",
    "read_portable",
    "recorded",
    "volumes_csv",
    "with_settings",
    "write_volumes",
]
