"""The positions of the tokens that follow the prompts of a batch.

A model that places media in space (M-RoPE of the Qwen-VL family) stores the offset between columns and positions of its
*last* call in itself, which is wrong as soon as batches take turns. So positions are computed here and kept with the
batch: those of the prompt by the model's own rule (`sequence_positions`), and for each row that of its next token.
"""

import torch


def next_positions(positions: torch.Tensor) -> torch.Tensor:
    """Position of the token after each prompt, (rows, 1) or (rows, axes)."""
    last = positions.amax(-1)  # (rows,) or (axes, rows)
    if last.ndim == 1:
        return last[:, None] + 1
    # The first axis counts tokens as in a text model. Time, height and width continue together after the largest of the
    # three, as in training: after a long video that is its last frame, and not the last token of the question.
    spatial = last[1:].amax(0, keepdim=True).expand(last.shape[0] - 1, -1)  # (axes - 1, rows)
    return torch.cat((last[:1], spatial)).T + 1


def step_positions(following: torch.Tensor, step: int) -> torch.Tensor:
    """Positions of one column, `step` tokens after the prompts, as the model takes them: ([axes,] rows, 1)."""
    here = following + step
    return here if here.shape[1] == 1 else here.T[..., None]
