"""Training: a model, a loss, an optimizer and data in; a trained model, its history and checkpoints out."""

from smelt.train.anomaly import NonFiniteLoss, NonFiniteValue, anomaly
from smelt.train.callbacks import Callback, EarlyStopping
from smelt.train.history import Epoch, History
from smelt.train.logs import CSVLog, JSONLLog
from smelt.train.progress import ProgressBar
from smelt.train.trainer import Trainer

__all__ = [
    "CSVLog",
    "Callback",
    "EarlyStopping",
    "Epoch",
    "History",
    "JSONLLog",
    "NonFiniteLoss",
    "NonFiniteValue",
    "ProgressBar",
    "Trainer",
    "anomaly",
]
