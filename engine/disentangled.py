"""DeBERTa's disentangled attention without its gathers: the same numbers, in two matrix products and one fused kernel.

DeBERTa (arXiv 2006.03654, eq. 4; v3: 2111.09543) adds to a query's product with a key two terms that depend on their
distance: content to position and position to content. transformers computes both for every bucket and then gathers
an element for every pair of tokens, which costs more than the attention itself. Here the position embeddings are laid
out by distance first, so that row i of the product holds its distances in order, and shifting each row by one is a
view of the same memory with another stride (the skew of Music Transformer, arXiv 1809.04281): no gather, no copy. The
sum goes as the bias into scaled_dot_product_attention. Position projections are computed once a model, not once a
batch and layer. The products run head by head over the whole batch, on rows whose number is a multiple of ALIGNED,
which tensor cores want.

Rows of padding are the one difference: there transformers averages over all keys, here they attend to the real ones.
Nothing reads them.
"""

from __future__ import annotations

from typing import Any

MODEL_TYPE = "deberta-v2"  # v2 and v3
ALIGNED = 16


def usable(model: Any) -> bool:
    """Whether `accelerate` knows this model's attention: DeBERTa v2 or v3 with relative positions, not training."""
    config = model.config
    return config.model_type == MODEL_TYPE and bool(getattr(config, "relative_attention", False)) and not model.training


def accelerate(model: Any) -> None:
    """Let every attention layer of a loaded model (eval, on its device, in its precision) work as described above.

    Only for inference: the position projections are frozen as they are now.
    """
    import torch

    encoder = model.base_model.encoder
    with torch.inference_mode():
        embeddings = encoder.get_rel_embedding()
        for layer in encoder.layer:
            attention = layer.attention.self
            attention.forward = _Attention(attention, embeddings)
    encoder.get_rel_pos = lambda *_: None  # quadratic in length, and nothing reads it now
    encoder.get_attention_mask = _hidden_keys


class _Attention:
    """What replaces one DisentangledSelfAttention.forward."""

    def __init__(self, attention: Any, embeddings: Any) -> None:
        import torch

        self._attention = attention
        self._heads = attention.num_attention_heads
        kinds = attention.pos_att_type
        self._scale = 1.0 / float((attention.attention_head_size * (1 + len({"c2p", "p2c"} & set(kinds)))) ** 0.5)
        span = attention.pos_ebd_size
        table = embeddings[: 2 * span]
        shared = attention.share_att_key
        self._key_positions = self._query_positions = None
        if "c2p" in kinds:
            project = attention.key_proj if shared else attention.pos_key_proj
            self._key_positions = self._by_head(project(table) * self._scale)
        if "p2c" in kinds:
            project = attention.query_proj if shared else attention.pos_query_proj
            self._query_positions = self._by_head(project(table) * self._scale)
        self._span = span
        self._laid_out: tuple[int, Any, Any] | None = None  # of the last length: sorted batches repeat it
        self._fused = torch.nn.functional.scaled_dot_product_attention

    def _by_head(self, table: Any) -> Any:
        """(positions, heads * d) to (heads, d, positions)."""
        return table.view(table.shape[0], self._heads, -1).permute(1, 2, 0).contiguous()

    def _positions(self, length: int, device: Any) -> tuple[Any, Any]:
        """Position keys and queries in the order of distances length-1 ... -(length-1)."""
        if self._laid_out is None or self._laid_out[0] != length:
            forward, backward = _buckets(self._attention, length, device)
            last = 2 * self._span - 1
            keys, queries = self._key_positions, self._query_positions
            keys = None if keys is None else _aligned(keys[:, :, (forward + self._span).clamp(0, last)])
            queries = None if queries is None else _aligned(queries[:, :, (backward + self._span).clamp(0, last)])
            self._laid_out = (length, keys, queries)
        return self._laid_out[1], self._laid_out[2]

    def __call__(
        self, hidden_states: Any, attention_mask: Any, output_attentions: bool = False, query_states: Any = None,
        relative_pos: Any = None, rel_embeddings: Any = None,
    ) -> tuple[Any, None]:  # fmt: skip
        import torch

        batch, length, _ = hidden_states.shape
        own = self._attention

        def split(states: Any) -> Any:
            return states.view(batch, length, self._heads, -1).transpose(1, 2)

        query, key = split(own.query_proj(hidden_states)), split(own.key_proj(hidden_states))
        value = split(own.value_proj(hidden_states))
        keys, queries = self._positions(length, hidden_states.device)
        bias = None
        if keys is not None:
            bias = _skewed(query, keys)
        if queries is not None:
            backward = _skewed(key, queries).transpose(-1, -2)
            bias = backward if bias is None else bias + backward
        if attention_mask is not None:
            bias = query.new_zeros((batch, 1, 1, length)) if bias is None else bias
            last = bias[..., length - attention_mask.shape[-1] :]
            last.masked_fill_(attention_mask, torch.finfo(query.dtype).min)
        context = self._fused(query, key, value, attn_mask=bias, scale=self._scale)
        return context.transpose(1, 2).reshape(batch, length, -1), None


def _hidden_keys(mask: Any) -> Any:
    """The keys to hide among the last (B, 1, 1, n), or None for none: looked up on the host only, for a device would
    stop. `mask.shortest`, where it was set, is the number of first tokens that every row has."""
    if mask.device.type == "cpu" and bool(mask.all()):
        return None
    return (mask[:, getattr(mask, "shortest", 0) :] == 0)[:, None, None, :]


def _aligned(table: Any) -> Any:
    """(heads, d, positions) with zeros behind, up to a multiple of ALIGNED; nothing reads what they give."""
    import torch

    return torch.nn.functional.pad(table, (0, -table.shape[-1] % ALIGNED))


def _skewed(states: Any, table: Any) -> Any:
    """Products of states (B, H, L, d) with a table (H, d, 2L-1 or more), the columns of row i counted from L-1-i.

    A view: element [b, h, i, j] is the product of states[b, h, i] with table[h, :, L-1-i+j].
    """
    import torch

    batch, heads, length, size = states.shape
    rows = states.transpose(1, 2).reshape(batch * length, heads, size).transpose(0, 1)  # a view, as `split` made it
    width = table.shape[-1]
    products = torch.bmm(rows, table)  # (H, B * L, width)
    strides = (length * width, batch * length * width, width - 1, 1)
    return products.as_strided((batch, heads, length, length), strides, length - 1)


def _buckets(attention: Any, length: int, device: Any) -> tuple[Any, Any]:
    """Buckets of the distances length-1 ... -(length-1): of query minus key, and of key minus query negated."""
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distance = torch.arange(length - 1, -length, -1, device=device)
    size, most = attention.position_buckets, attention.max_relative_positions
    bucket = make_log_bucket_position(distance, size, most).long() if size > 0 and most > 0 else distance
    return bucket, -bucket
