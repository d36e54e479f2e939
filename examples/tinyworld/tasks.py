"""Every kind of task under one roof: the eight of align-anything-200k, questions about scenes, and open invitations."""

import random
from typing import Protocol, TypeAlias

from examples.tinyworld import faults, presenting, understanding
from examples.tinyworld.language import Task
from examples.tinyworld.language import random_task as random_single
from examples.tinyworld.presenting import Invitation, random_invitation
from examples.tinyworld.understanding import Question, random_question
from omnialign import rubrics
from omnialign.modeling.inputs import Pieces

SUBTASKS = (*rubrics.SUBTASKS, *understanding.SUBTASKS, *presenting.SUBTASKS)
AnyTask: TypeAlias = Task | Question | Invitation


class Written(Protocol):
    """An answer before it is rendered."""

    def pieces(self, *, rendered: bool = True) -> Pieces:
        """The answer, with media as files or as one byte per code."""


def random_task(rng: random.Random, subtask: str, *, held_out: bool | None = None) -> AnyTask:
    """A random task of a subtask; `held_out` restricts what is seen or asked for, as in `random_thing`."""
    if subtask in understanding.SUBTASKS:
        return random_question(rng, subtask, held_out=held_out)
    if subtask in presenting.SUBTASKS:
        return random_invitation(rng, subtask, held_out=held_out)
    return random_single(rng, subtask, held_out=held_out)


def right_answer(task: AnyTask) -> Written:
    """The answer of a perfect model."""
    return faults.right_answer(task) if isinstance(task, Task) else task.right()


def faulty_answer(rng: random.Random, task: AnyTask) -> Written:
    """The answer of a misaligned model."""
    return faults.faulty_answer(rng, task) if isinstance(task, Task) else task.faulty(rng)
