"""Layers ignore padding and follow their formulas."""

import pytest
import torch
from torch import Tensor, nn

from model.network.layers import AttentivePooling, FeedForward, SelfAttention, TransformerLayer, masked_mean

B, T, D = 3, 6, 8
VALID = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]], dtype=torch.bool)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["attention", "layer", "pooling"])
def masked(request: pytest.FixtureRequest) -> nn.Module:
    made: dict[str, nn.Module] = {
        "attention": SelfAttention(D, 2, 0.5),
        "layer": TransformerLayer(D, 2, 16, 0.5),
        "pooling": AttentivePooling(D),
    }
    return made[request.param].eval()


def valid_part(output: Tensor) -> Tensor:
    """The valid slots, or the pooled rows."""
    return output[VALID] if output.dim() == 3 else output


def test_content_of_padding_changes_nothing(masked: nn.Module) -> None:
    x = noise()
    noisy = torch.where(VALID[:, :, None], x, noise(1) * 100)
    torch.testing.assert_close(valid_part(masked(x, VALID)), valid_part(masked(noisy, VALID)), atol=0, rtol=0)


def test_content_of_a_valid_slot_changes_its_row_only(masked: nn.Module) -> None:
    x, other = noise(), noise()
    other[1, 1] += torch.randn(D)
    one, two = masked(x, VALID), masked(other, VALID)
    assert not torch.allclose(one[1], two[1])
    torch.testing.assert_close(one[0], two[0])


def test_amount_of_padding_changes_nothing(masked: nn.Module) -> None:
    x, more = noise(), nn.functional.pad(noise(), (0, 0, 0, 5), value=3.0)
    wider = nn.functional.pad(VALID, (0, 5))
    short, long = masked(x, VALID), masked(more, wider)
    torch.testing.assert_close(valid_part(short), valid_part(long[:, :T] if long.dim() == 3 else long))


def test_row_without_valid_slots_stays_finite(masked: nn.Module) -> None:
    assert torch.isfinite(masked(noise(), torch.zeros_like(VALID))).all()


def test_self_attention_equals_multihead_attention_with_residual_and_norm() -> None:
    ours, plain = SelfAttention(D, 2, 0.0).eval(), nn.MultiheadAttention(D, 2, batch_first=True).eval()
    with torch.no_grad():
        plain.in_proj_weight.copy_(ours.qkv.weight)
        assert plain.in_proj_bias is not None
        plain.in_proj_bias.copy_(ours.qkv.bias)
        plain.out_proj.load_state_dict(ours.out.state_dict())
    x = noise()
    mixed, _ = plain(x, x, x, key_padding_mask=~VALID)
    torch.testing.assert_close(ours(x, VALID), ours.norm(x + mixed), atol=1e-5, rtol=1e-5)


def test_transformer_layer_is_attention_then_feed_forward() -> None:
    layer = TransformerLayer(D, 2, 16, 0.0).eval()
    x = noise()
    torch.testing.assert_close(layer(x, VALID), layer.feedforward(layer.attention(x, VALID)))


def test_feed_forward_is_position_wise() -> None:
    layer = FeedForward(D, 16, 0.0).eval()
    x = noise()
    torch.testing.assert_close(layer(x)[:, 2:3], layer(x[:, 2:3]))


def test_dropout_is_active_in_training_only() -> None:
    attention, x = SelfAttention(D, 2, 0.5), noise()
    assert not torch.equal(attention(x, VALID), attention(x, VALID))
    attention.eval()
    assert torch.equal(attention(x, VALID), attention(x, VALID))


def test_pooling_weights_valid_slots_by_gated_scores() -> None:
    pool, x = AttentivePooling(D), noise()
    row = x[2, [0, 2]]  # the valid slots of the last row
    scores = pool.score(pool.value(row) * torch.sigmoid(pool.gate(row))).squeeze(-1)
    torch.testing.assert_close(pool(x, VALID)[2], scores.softmax(dim=0) @ row)


def test_masked_mean_is_over_valid_slots() -> None:
    x = noise()
    valid = VALID.clone()
    valid[1] = False
    mean = masked_mean(x, valid)
    torch.testing.assert_close(mean[0], x[0].mean(dim=0))
    torch.testing.assert_close(mean[2], (x[2, 0] + x[2, 2]) / 2)
    assert torch.equal(mean[1], torch.zeros(D))
