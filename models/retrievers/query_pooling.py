"""MIRe's query-guided attentive pooling: turns the states of a frozen vision tower into late-interaction rows without any text in them.

With a picture's first state cls and its patches p, both of width v, and E_t the vectors of the guiding tokens before normalisation:

E_g  reshape(W2 tanh(W1 cls)), 16 rows of each picture
P'   GELU(Linear(LN(p))), and K, V = P' W_k, P' W_v without bias, seen as 12 heads of width 128
A    softmax over patches (E_t K^T / sqrt(128)); the same E_t in all heads, without a projection of its own
O    sum over tokens (A V) / number of tokens
E_m  Linear(LN(O)), 12 rows of all pictures of an item; nothing of E_t is added

Linear layers start as Xavier's uniform weights without bias. As A V is linear in A, A is summed over the tokens before it meets V.

Shapes: V pictures, P patches and before them the first state, v width of a state, I items with pictures, K pictures an item, L tokens,
S patches of all pictures of an item, H heads, D width, M rows of all items.
"""

import math

import torch
import torch.nn.functional as F

NOWHERE = -1  # padding in a table of positions


class Pooling(torch.nn.Module):
    """Turns states of pictures, and guiding tokens of each item, into global rows of pictures and attentive rows of items."""

    def __init__(self, vision_width: int, width: int, heads: int, global_tokens: int, global_hidden: int, patch_hidden: int):
        super().__init__()
        self.width, self.heads = width, heads
        self.global_in = torch.nn.Linear(vision_width, global_hidden)
        self.global_out = torch.nn.Linear(global_hidden, global_tokens * width)
        self.patch_norm = torch.nn.LayerNorm(vision_width)
        self.patch_in = torch.nn.Linear(vision_width, patch_hidden)
        self.keys = torch.nn.Linear(patch_hidden, heads * width, bias=False)
        self.values = torch.nn.Linear(patch_hidden, heads * width, bias=False)
        self.head_norm = torch.nn.LayerNorm(width)
        self.head_out = torch.nn.Linear(width, width)
        for module in self.modules():
            if isinstance(module, torch.nn.Linear):
                initialise(module)

    def forward(
        self, states_VPv: torch.Tensor, pictures_IK: torch.Tensor, guides_ILD: torch.Tensor, mask_IL: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """E_g of all pictures and E_m of all items, each concatenated; `pictures` has the indices of each item's pictures."""
        global_MD = self.global_out(torch.tanh(self.global_in(states_VPv[:, 0]))).reshape(-1, self.width)
        inner_VPv = F.gelu(self.patch_in(self.patch_norm(states_VPv[:, 1:])))
        keys_ISHD, values_ISHD = (self._of_items(linear(inner_VPv), pictures_IK) for linear in (self.keys, self.values))
        real_IS = (pictures_IK != NOWHERE).repeat_interleave(inner_VPv.shape[1], dim=1)
        logits_IHLS = torch.einsum("ild,ishd->ihls", guides_ILD, keys_ISHD) / math.sqrt(self.width)
        weights_IHLS = logits_IHLS.masked_fill(~real_IS[:, None, None], float("-inf")).softmax(-1)
        mask_IL = mask_IL.to(weights_IHLS.dtype)
        weights_IHS = torch.einsum("ihls,il->ihs", weights_IHLS, mask_IL) / mask_IL.sum(1)[:, None, None]
        pooled_IHD = torch.einsum("ihs,ishd->ihd", weights_IHS, values_ISHD)
        return global_MD, self.head_out(self.head_norm(pooled_IHD)).reshape(-1, self.width)

    def _of_items(self, patches_VPv: torch.Tensor, pictures_IK: torch.Tensor) -> torch.Tensor:
        """The patches of all pictures of each item, split into heads."""
        items: torch.Tensor = patches_VPv[pictures_IK.clamp(min=0)].flatten(1, 2).unflatten(-1, (self.heads, self.width))
        return items


def initialise(linear: torch.nn.Linear) -> None:
    """Initialises a linear layer: Xavier's uniform weights, zero bias."""
    torch.nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        torch.nn.init.zeros_(linear.bias)
