"""Training: one readable loop, ten plugin hooks, checkpoints that continue to the bit."""

from graphkit.train.closure import DivergenceError, SkipStep
from graphkit.train.hooks import Closure, PluginList, Restart, Run, Stop, TrainerPlugin
from graphkit.train.optimizers import build_optimizer
from graphkit.train.progress import BarProgress, PlainProgress, ProgressEvent, describe
from graphkit.train.result import FitResult
from graphkit.train.rng import seed_everything
from graphkit.train.trainer import Trainer
from graphkit.train.world import LocalWorld, ProcessWorld, SoloWorld, World

__all__ = [
    "BarProgress",
    "Closure",
    "DivergenceError",
    "FitResult",
    "LocalWorld",
    "PlainProgress",
    "PluginList",
    "ProcessWorld",
    "ProgressEvent",
    "Restart",
    "Run",
    "SkipStep",
    "SoloWorld",
    "Stop",
    "Trainer",
    "TrainerPlugin",
    "World",
    "build_optimizer",
    "describe",
    "seed_everything",
]
