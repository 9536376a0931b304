import torch
from torch import nn

from model.baselines.layers import (
    AttentionDecoder,
    BottleneckAutoencoder,
    MaskedLSTM,
    ResidualCascade,
    TextCNN,
    masked_max,
    move_to_front,
)

VALID = torch.tensor([[True, False, True, True], [False, True, False, False], [False, False, False, False]])


def content() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 4, 5)


def test_valid_slots_move_to_the_front_in_order() -> None:
    x = content()
    moved, front = move_to_front(x, VALID)
    assert front.tolist() == [[True, True, True, False], [True, False, False, False], [False] * 4]
    assert torch.equal(moved[0, :3], x[0, VALID[0]])
    assert torch.equal(moved[1, :1], x[1, VALID[1]])


def test_the_maximum_ignores_other_slots() -> None:
    x = content()
    pooled = masked_max(x, VALID)
    assert torch.equal(pooled[0], x[0, VALID[0]].amax(dim=0))
    assert torch.equal(pooled[2], torch.zeros(5))


def test_an_lstm_reads_the_valid_slots_alone() -> None:
    x = content()
    for bidirectional in (False, True):
        lstm = MaskedLSTM(5, 3, bidirectional=bidirectional)
        states, front = lstm(x, VALID)
        alone = lstm.lstm(x[:1, VALID[0]])[0]
        expected = alone if not bidirectional else alone[..., :3] + alone[..., 3:]
        torch.testing.assert_close(states[0, :3], expected[0])
        assert torch.equal(states[~front], torch.zeros_like(states[~front]))


def test_a_convolution_reads_zeros_beyond_the_text() -> None:
    network = TextCNN(5, 6, (3, 4, 5), dropout=0.0)
    x = content()
    whole = network(x, VALID)
    torch.testing.assert_close(whole[:1], network(x[:1, VALID[0]], torch.ones(1, 3, dtype=torch.bool)))
    convolution = network.convolutions[0]
    assert isinstance(convolution, nn.Conv1d)
    text = x[0, VALID[0]]  # three tokens: one window of three, and two that read zeros
    windows = [torch.cat([text[i:], torch.zeros(i, 5)]) for i in range(3)]
    assert convolution.bias is not None
    expected = torch.stack([torch.einsum("tc,oct->o", w, convolution.weight) for w in windows]) + convolution.bias
    padded = nn.functional.pad(text.T[None], (0, 2))
    torch.testing.assert_close(convolution(padded)[0].T, expected)


def test_a_cascade_adds_each_output_to_its_input() -> None:
    cascade, x = ResidualCascade(6, (4, 2), blocks=3), torch.randn(2, 6)
    codes, output = cascade(x)
    assert codes.shape == (2, 6)
    expected = x
    for number, block in enumerate(cascade.blocks):
        code, delta = block(expected)
        torch.testing.assert_close(codes[:, 2 * number : 2 * number + 2], code)
        expected = expected + delta
    torch.testing.assert_close(output, expected)


def test_an_autoencoder_ends_with_a_linear_layer() -> None:
    network = BottleneckAutoencoder(6, (4, 2))
    code, output = network(torch.randn(50, 6))
    assert (code.shape, output.shape) == ((50, 2), (50, 6))
    assert isinstance(network.decoder[-1], nn.Linear)
    assert (output < -0.05).any()


def test_a_decoder_attends_to_valid_states_alone() -> None:
    decoder, x = AttentionDecoder(5, 2), content()
    written = decoder(x, VALID, 6)
    assert written.shape == (3, 6, 2)
    torch.testing.assert_close(written[:1], decoder(x[:1, VALID[0]], torch.ones(1, 3, dtype=torch.bool), 6))
    assert torch.isfinite(written).all()
