"""Training: recipes, the loop, checkpoints that go on bit for bit, and the folder where a run leaves them."""

from minires.training.checkpoint import Checkpoint, CheckpointError
from minires.training.experiment import Experiment, open_sets, open_test_set, plan
from minires.training.folder import RunFolder
from minires.training.inference import classify, load_model
from minires.training.log import RunLog
from minires.training.recipe import Recipe, recipe_for
from minires.training.trainer import EpochReport, Evaluation, StepReport, Trainer, TrainingError, evaluate

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "EpochReport",
    "Evaluation",
    "Experiment",
    "Recipe",
    "RunFolder",
    "RunLog",
    "StepReport",
    "Trainer",
    "TrainingError",
    "classify",
    "evaluate",
    "load_model",
    "open_sets",
    "open_test_set",
    "plan",
    "recipe_for",
]
