"""Sampling tokens: each record from its own random stream, whoever else is in the batch.

Sampling is Gumbel-max: argmax(logits / temperature + g) with g = -log(-log u) is an exact draw from the softmax. The
uniform u of token v at step t of a record with seed s is a pure function of (s, t, v): Philox4x32-10 (Salmon et al.,
2011) with the seed as key and (v // 4, t) as counter. So no row has a generator state to keep, and all rows of a batch
are sampled in a handful of vector operations, on any device.
"""

from dataclasses import dataclass

import torch

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def philox(seeds: torch.Tensor, steps: torch.Tensor, blocks: int) -> torch.Tensor:
    """Random 32-bit words, int64 of shape (rows, 4 * blocks), for 64-bit `seeds` and `steps` of shape (rows,)."""
    # Words are 32 bits, held in int64: torch has no unsigned 32-bit products, and these need 64 bits anyway.
    key0, key1 = (seeds & MASK)[:, None], ((seeds >> 32) & MASK)[:, None]  # (rows, 1)
    block = torch.arange(blocks, device=seeds.device)[None, :]  # (1, blocks)
    x0, x1 = block.expand(len(seeds), blocks), (steps & MASK)[:, None]  # the counter: (block, step, 0, 0)
    x2, x3 = torch.zeros_like(block), torch.zeros_like(block)
    for _ in range(ROUNDS):
        # A product of two 32-bit words may exceed a signed int64 and wrap; its 64 bits are right all the same, and the
        # mask takes away the sign that the shift drags in.
        product0, product1 = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0, x1, x2, x3 = (
            ((product1 >> 32) & MASK) ^ x1 ^ key0,
            product1 & MASK,
            ((product0 >> 32) & MASK) ^ x3 ^ key1,
            product0 & MASK,
        )
        key0, key1 = (key0 + WEYL[0]) & MASK, (key1 + WEYL[1]) & MASK
    return torch.stack((x0, x1, x2, x3), dim=-1).flatten(1)  # (rows, blocks, 4) -> (rows, 4 * blocks)


def gumbel(seeds: torch.Tensor, steps: torch.Tensor, tokens: int) -> torch.Tensor:
    """Standard Gumbel noise, float32 of shape (rows, tokens)."""
    words = philox(seeds, steps, -(-tokens // 4))[:, :tokens]
    # Half a unit keeps u strictly between 0 and 1, in float64, where that makes a difference: no noise is infinite.
    uniform = words.to(torch.float64).add_(0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_().to(torch.float32)


@dataclass
class Sampler:
    """How each row of a batch samples; tensors of shape (rows,)."""

    seeds: torch.Tensor
    temperatures: torch.Tensor
    top_ps: torch.Tensor

    @classmethod
    def of(cls, rows: list[tuple[int, float, float]], *, device: torch.device) -> "Sampler":
        """A sampler for rows of (seed, temperature, top_p); a top_p of 0 means 1."""
        seeds = [seed - 2**64 if seed >= 2**63 else seed for seed, _, _ in rows]  # the same 64 bits, signed
        temperatures = [temperature for _, temperature, _ in rows]
        top_ps = [top_p or 1.0 for _, _, top_p in rows]
        return cls(
            torch.tensor(seeds, dtype=torch.int64, device=device),
            torch.tensor(temperatures, dtype=torch.float32, device=device),
            torch.tensor(top_ps, dtype=torch.float32, device=device),
        )

    def keep(self, rows: torch.Tensor) -> "Sampler":
        """The rows at these indices, in this order."""
        return Sampler(self.seeds[rows], self.temperatures[rows], self.top_ps[rows])

    def sample(self, logits: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """The next token of each row, (rows,), from logits of shape (rows, vocabulary), at step `steps` of each row."""
        logits = logits.float()
        sampled = self.temperatures > 0
        if not bool(sampled.any()):
            return logits.argmax(-1)
        # Rows with temperature 0 are greedy: they are computed like the others, and their noise is not used.
        scaled = self._scaled(logits)
        if bool((self.top_ps < 1).any()):
            scaled = nucleus(scaled, self.top_ps)
        noise = gumbel(self.seeds, steps, logits.shape[1])
        return torch.where(sampled[:, None], scaled + noise, logits).argmax(-1)

    def log_probs(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """log softmax(logits / temperature) of one token per row, (rows,); greedy rows have the temperature 1.

        The policy gradient needs the model's own distribution, which the trainer can compute too: so `logits` are those
        before constraints, and top-p is left out.
        """
        return self._scaled(logits.float()).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / torch.where(self.temperatures > 0, self.temperatures, 1.0)[:, None]


def nucleus(logits: torch.Tensor, top_ps: torch.Tensor) -> torch.Tensor:
    """Top-p filtering: all tokens but the smallest set of most likely ones with `top_ps` of the mass at minus infinity.

    `logits` and the result have shape (rows, vocabulary), `top_ps` has shape (rows,).
    """
    ordered, places = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    dropped = mass_before >= top_ps[:, None]
    dropped[:, 0] = False  # the most likely token stays, however small top_p is
    return logits.masked_fill(dropped.scatter(-1, places, dropped), float("-inf"))
