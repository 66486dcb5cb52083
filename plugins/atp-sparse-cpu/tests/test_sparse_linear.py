"""`SparseLinear` as a module and as an operator."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from atp_core.errors import ModelError
from atp_sparse_cpu import SparseLinear
from atp_sparse_cpu._op import sparse_linear, sparse_unpack
from atp_sparse_cpu._plan import BUCKETS, Path

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture
def dense() -> Iterator[nn.Linear]:
    torch.manual_seed(0)
    layer = nn.Linear(70, 30)
    layer.weight.data[torch.rand(30, 70) < 0.6] = 0
    yield layer


def test_equals_the_dense_layer_and_leaves_it_alone(dense: nn.Linear) -> None:
    before, x = dense.weight.detach().clone(), torch.randn(2, 3, 70)
    sparse = SparseLinear.from_linear(dense)
    with torch.inference_mode():
        torch.testing.assert_close(sparse(x), dense(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(dense.weight, before) and torch.equal(sparse.weight, before)
    assert sparse.bias is dense.bias
    assert sparse.bytes < dense.weight.nbytes
    with pytest.raises(ModelError, match="stands for no dense one"):
        sparse.release()


def test_gradients_of_inputs_and_bias(dense: nn.Linear) -> None:
    sparse, x = SparseLinear.from_linear(dense), torch.randn(4, 5, 70)
    ones, others = x.clone().requires_grad_(), x.clone().requires_grad_()
    (dense(ones) ** 2).sum().backward()
    assert dense.bias.grad is not None
    expected, dense.bias.grad = dense.bias.grad, None
    (sparse(others) ** 2).sum().backward()
    torch.testing.assert_close(others.grad, ones.grad)
    torch.testing.assert_close(dense.bias.grad, expected)


# torch's own check looks at gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_operator_passes_the_checks_of_torch(dense: nn.Linear) -> None:
    packed = SparseLinear.from_linear(dense).packed
    x = torch.randn(3, 70, requires_grad=True)
    plan = [int(Path.FP32)] * len(BUCKETS)
    arguments = (x, packed.masks, packed.values, packed.offsets, None, dense.bias, None, 30, plan)
    torch.library.opcheck(sparse_linear, arguments)
    parts = (packed.masks, packed.values, packed.offsets, None, 30, 70, torch.float32)
    torch.library.opcheck(sparse_unpack, parts)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_breaks(dense: nn.Linear, dynamic: bool) -> None:
    sparse = SparseLinear.from_linear(dense)
    compiled = torch.compile(sparse, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    with torch.inference_mode():
        for tokens in (1, 5, 40):
            x = torch.randn(tokens, 70)
            assert torch.equal(compiled(x), sparse(x))


def test_exports_with_a_free_number_of_tokens(dense: nn.Linear) -> None:
    sparse = SparseLinear.from_linear(dense).requires_grad_(False)
    free = ({0: torch.export.Dim("tokens", min=2, max=512)},)
    program = torch.export.export(sparse, (torch.randn(7, 70),), dynamic_shapes=free)
    assert any("atp.sparse_linear" in str(node.target) for node in program.graph.nodes)
    x = torch.randn(300, 70)
    assert torch.equal(program.module()(x), sparse(x))


def test_wrong_inputs_are_told(dense: nn.Linear) -> None:
    sparse = SparseLinear.from_linear(dense)
    for x in (torch.randn(3, 70).double(), torch.randn(3, 71), torch.empty(3, 70, device="meta")):
        with pytest.raises(ModelError, match="a sparse layer for 70 features"):
            sparse(x)


def test_conversions_are_refused_before_anything_changes(dense: nn.Linear) -> None:
    model = nn.Sequential(SparseLinear.from_linear(dense))
    for change in (lambda: model.to(torch.bfloat16), lambda: model.to("meta")):
        with pytest.raises(ModelError, match="restore"):
            change()
    model.float().cpu()
    assert model[0].bias.dtype == torch.float32


def test_autocast_computes_in_the_weights_type(dense: nn.Linear) -> None:
    sparse, x = SparseLinear.from_linear(dense), torch.randn(3, 70)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = sparse(x)
        assert got.dtype == dense(x).dtype == torch.bfloat16
    with torch.inference_mode():
        assert torch.equal(got, sparse(x).bfloat16())


def test_state_dict_is_that_of_the_dense_layer(dense: nn.Linear) -> None:
    sparse = SparseLinear.from_linear(dense)
    state = sparse.state_dict()
    assert list(state) == ["weight", "bias"] or list(state) == ["bias", "weight"]
    assert torch.equal(state["weight"], dense.weight)
    other = nn.Linear(70, 30)
    other.weight.data[torch.rand(30, 70) < 0.9] = 0
    sparse.load_state_dict(other.state_dict())
    assert torch.equal(sparse.weight, other.weight)
    x = torch.randn(2, 70)
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), other(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        sparse.load_state_dict({**state, "weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="Missing key"):
        sparse.load_state_dict({"bias": state["bias"]})


def test_copies_are_independent(dense: nn.Linear) -> None:
    sparse, x = SparseLinear.from_linear(dense).requires_grad_(False), torch.randn(2, 70)
    expected = sparse(x)
    twin = copy.deepcopy(sparse)
    sparse.load_state_dict({"weight": torch.zeros(30, 70), "bias": torch.zeros(30)})
    assert torch.equal(twin(x), expected) and (sparse(x) == 0).all()


def test_whole_modules_can_be_stored(dense: nn.Linear) -> None:
    sparse, x = SparseLinear.from_linear(dense).requires_grad_(False), torch.randn(2, 70)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), sparse(x))


def test_shows_what_it_is(dense: nn.Linear) -> None:
    sparse = SparseLinear.from_linear(dense, int8=True)
    assert repr(sparse).startswith("SparseLinear(in_features=70, out_features=30, bias=True, int8")
