"""The best epoch by the score of an inner split: when to stop, and when to lower the learning rate."""

import math
from dataclasses import asdict, dataclass


@dataclass
class EarlyStopping:
    """What the epochs of one stage have shown so far. Numbers only, so that a checkpoint can hold it."""

    greater_is_better: bool
    best: float = math.nan   # score
    best_epoch: int = -1     # of the stage, from 0
    epochs: int = 0          # seen
    waiting: int = 0         # epochs since the best one or since the rate was lowered last
    factor: float = 1.0      # on the learning rate

    def see(self, score: float) -> bool:
        """Takes the next epoch's score; True where it is the best so far. Raises ValueError where it is undefined."""
        if math.isnan(score):
            raise ValueError("the inner split cannot be scored: no label has both kinds among its certain cells; set a "
                             "larger `val_fraction`, or patience=0 and another schedule")
        better = self.best_epoch < 0 or (score > self.best if self.greater_is_better else score < self.best)
        if better:
            self.best, self.best_epoch, self.waiting = score, self.epochs, 0
        else:
            self.waiting += 1
        self.epochs += 1
        return better

    def lower(self, patience: int, factor: float) -> None:
        """Lowers the learning rate where `patience` epochs in a row were not better (Keras' ReduceLROnPlateau)."""
        if self.waiting >= patience:
            self.factor, self.waiting = self.factor * factor, 0

    def is_over(self, patience: int) -> bool:
        """True where so many epochs have passed since the best one; never for 0."""
        return 0 < patience <= self.epochs - 1 - self.best_epoch

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)
