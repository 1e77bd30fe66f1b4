"""Text from a model: through every rung, with kept keys and values as without, and beyond them."""

from __future__ import annotations

import pytest
import torch

from gpt.attend import Rung, by_torch, choose
from gpt.checkpoint import Checkpoint
from gpt.generate import Compared, Sampler, Stream, generate
from gpt.model import torch_attend
from tests.gpt.conftest import TEXT
from workbench import rungs
from workbench.toolchain.errors import Failure

PROMPT = "the quick "


def of_prompt(checkpoint: Checkpoint, attend=torch_attend, prompt: str = PROMPT) -> Stream:
    tokens = checkpoint.tokenizer.encode(prompt).tolist()
    return Stream(checkpoint.model, attend, attend, tokens)


def written(checkpoint: Checkpoint, stream: Stream, count: int, seed: int = 1) -> str:
    generator = torch.Generator().manual_seed(seed)
    return checkpoint.tokenizer.decode(generate(stream, Sampler(), count, generator))


@torch.no_grad()
def test_kept_keys_and_values_change_nothing(checkpoint: Checkpoint):
    stream = of_prompt(checkpoint)
    for token in checkpoint.tokenizer.encode("brown fox jumps over").tolist():
        logits = stream.logits()
        checkpoint.model.attend = torch_attend
        whole = checkpoint.model(torch.tensor([stream.tokens]))[0, -1]
        torch.testing.assert_close(logits, whole, atol=1e-5, rtol=1e-5)
        stream.tokens.append(token)


@torch.no_grad()
def test_beyond_the_context_the_later_half_is_read_again(checkpoint: Checkpoint):
    context = checkpoint.model.config.context
    tokens = checkpoint.tokenizer.encode(TEXT).tolist()
    stream = of_prompt(checkpoint)
    stream.tokens[:] = tokens[:context]
    stream.logits()
    assert (stream.read_again, stream.cache.length) == (0, context)
    stream.tokens.append(tokens[context])
    logits = stream.logits()
    assert (stream.read_again, stream.cache.length) == (1, context // 2)
    half = stream.tokens[-(context // 2) :]
    torch.testing.assert_close(logits, checkpoint.model(torch.tensor([half]))[0, -1])
    assert len(written(checkpoint, stream, 2 * context)) == 2 * context


@torch.no_grad()
def test_a_prompt_longer_than_the_context_is_cut_at_its_start(checkpoint: Checkpoint):
    context = checkpoint.model.config.context
    stream = of_prompt(checkpoint, prompt=TEXT)
    last = torch.tensor([stream.tokens[-context:]])
    torch.testing.assert_close(stream.logits(), checkpoint.model(last)[0, -1])


CPU_RUNGS = ["cpu_naive", "cpu_blocked", "cpu_fused_row", "cpu_flash", "cpu_simd"]
CUDA_RUNGS = ["naive", "fused_row", "warp_dot", "flash", "flash_registers"]


def test_the_cpu_rungs_are_all_tested():
    assert [rung.name for rung in rungs("attention", "cpu")] == CPU_RUNGS


@pytest.mark.parametrize(
    "rung",
    [*((name, "cpu") for name in CPU_RUNGS), *((name, "simulator") for name in CUDA_RUNGS)],
    ids=lambda rung: rung[0],
)
def test_every_rung_writes_the_same_text(rung, checkpoint: Checkpoint):
    """At each step its logits agree with PyTorch's; so the text for a seed is the same."""
    chosen = choose(*rung)
    own, right = of_prompt(checkpoint, chosen), of_prompt(checkpoint)
    generator = torch.Generator().manual_seed(7)
    for _ in range(12):
        logits = own.logits()
        torch.testing.assert_close(logits, right.logits(), atol=2e-5, rtol=2e-5)
        token = Sampler().draw(logits, generator)
        own.tokens.append(token)
        right.tokens.append(token)
    texts = {written(checkpoint, of_prompt(checkpoint, by), 12) for by in (chosen, torch_attend)}
    assert len(texts) == 1


def test_a_rung_in_16_bits_is_close(checkpoint: Checkpoint):
    rung = choose("flash_mma", "simulator")
    assert rung.dtype in (torch.float16, torch.bfloat16)
    own, right = of_prompt(checkpoint, rung), of_prompt(checkpoint)
    torch.testing.assert_close(own.logits(), right.logits(), atol=5e-2, rtol=0)


def test_the_model_really_runs_through_the_rung(checkpoint: Checkpoint):
    calls = []

    def counting(q, k, v):
        calls.append((q.shape[-2], k.shape[-2]))
        return torch_attend(q, k, v)

    stream = of_prompt(checkpoint, counting)
    written(checkpoint, stream, 3)
    n, layers = len(PROMPT), checkpoint.model.config.layers
    expected = [(n, n), (1, n + 1), (1, n + 2)]
    assert calls == [call for call in expected for _ in range(layers)]


def test_prefill_and_decode_may_be_different_rungs(checkpoint: Checkpoint):
    counts = {"prefill": 0, "decode": 0}

    def counted(name):
        def attend(q, k, v):
            counts[name] += 1
            assert (q.shape[-2] == 1) == (name == "decode")
            return torch_attend(q, k, v)

        return attend

    tokens = checkpoint.tokenizer.encode(PROMPT).tolist()
    stream = Stream(checkpoint.model, counted("prefill"), counted("decode"), tokens)
    written(checkpoint, stream, 5)
    assert counts == {"prefill": 2, "decode": 8}


def test_compared_shows_a_wrong_layer(checkpoint: Checkpoint):
    layers = checkpoint.model.config.layers
    calls = [0]

    def wrong_in_the_second(q, k, v):
        calls[0] += 1
        return torch_attend(q, k, v) + (0.5 if calls[0] % layers == 0 else 0.0)

    compared = Compared(wrong_in_the_second, layers)
    written(checkpoint, of_prompt(checkpoint, compared), 2)
    assert compared.calls == 2 * layers
    assert compared.differences[0] < 1e-5
    assert compared.differences[1] == pytest.approx(0.5, abs=1e-4)


def test_compared_keeps_a_nan():
    compared = Compared(lambda q, k, v: q * torch.nan, layers=1)
    x = torch.ones(1, 1, 1, 4)
    for _ in range(2):
        compared(x, x, x)
    assert compared.differences[0] != compared.differences[0]


def test_by_torch_is_the_formula():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 9, 9))
    right = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.ones(5, 9, dtype=torch.bool).tril(4)
    )
    torch.testing.assert_close(by_torch(q, k, v), right)
    torch.testing.assert_close(Rung("torch", "cpu")(q, k, v), right)


def test_sampling():
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    assert Sampler(temperature=0).draw(logits, generator) == 1
    drawn = [Sampler(temperature=1.0, top_k=2).draw(logits, generator) for _ in range(2000)]
    assert set(drawn) == {1, 3}
    assert drawn.count(1) / len(drawn) == pytest.approx(0.731, abs=0.04)  # 1 / (1 + exp(-1))
    cold = [Sampler(temperature=0.25, top_k=2).draw(logits, generator) for _ in range(2000)]
    assert cold.count(1) / len(cold) == pytest.approx(0.982, abs=0.02)


def test_characters(checkpoint: Checkpoint):
    tokenizer = checkpoint.tokenizer
    assert tokenizer.characters == "".join(sorted(set(TEXT)))
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    with pytest.raises(Failure, match="does not have the character '€'"):
        tokenizer.encode("the €")
