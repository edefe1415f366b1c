"""How the encoders are trained, and their teachers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from training import init_mini
from training.init_mini import Size

#: The encoders, and the baseline; what each reads of `Examples`.
DNA, PROTEIN, FIVEMER = "dna", "protein", "fivemer"
READS = {DNA: "dna", PROTEIN: "protein", FIVEMER: "codes"}


@dataclass(frozen=True)
class Recipe:
    """How an encoder is trained. group, tokens: weights of the losses beside that of the class."""

    dropout: float
    group: float = 0.5
    tokens: float = 0.3
    rate: float = 1.5e-3
    decay: float = 0.05
    average: float = 0.995


#: A DNA encoder learns its windows by heart long before a protein encoder does.
RECIPES = {DNA: Recipe(dropout=0.2), PROTEIN: Recipe(dropout=0.1)}


@dataclass(frozen=True)
class Kind:
    """A kind of teacher, of which there is one a fold: the encoder it is, and its training."""

    part: str
    recipe: Recipe
    steps: int


#: The kinds of teachers. The baseline beside the first is asked, too: it errs on other windows.
TEACHERS = {
    "dna": Kind(DNA, RECIPES[DNA], 8_000),
    "tokens": Kind(DNA, replace(RECIPES[DNA], tokens=1.0), 8_000),
    "protein": Kind(PROTEIN, RECIPES[PROTEIN], 4_800),
}
#: Nothing limits a teacher's size but the time of its training.
TEACHER_SIZES = {init_mini.DNA: Size(3, 128, 2, 256), init_mini.PROTEIN: Size(4, 256, 2, 512)}
#: What the teachers' word weighs in a target; the rest is the true class.
TRUST = 0.6
