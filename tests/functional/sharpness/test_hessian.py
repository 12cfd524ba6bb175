"""Products, eigenvalues and trace, against the whole Hessian of a small network from torch.func."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf
from tests.functional.sharpness.small_nets import batches, flat, loss_of, net, state_of


def whole_hessian(model: nn.Module, *sizes: int) -> np.ndarray:
    """From torch.func, over all samples as one batch."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    x, y = (torch.cat(parts) for parts in zip(*batches(*sizes), strict=True))
    model.eval()

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        named = {name: piece.reshape(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, named, (x.to(vector.dtype),)), y)

    vector = torch.cat([p.detach().flatten() for p in model.parameters()])
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # torch's forward mode uses its own deprecated `torch.jit.script`
        return torch.func.hessian(loss)(vector).double().numpy()


def small(dtype: torch.dtype = torch.float64) -> nn.Module:
    return net(norm=False, dropout=False, width=2).to(dtype)


def loss_in(model: nn.Module, *sizes: int) -> hpf.BatchLoss:
    dtype = next(model.parameters()).dtype
    return hpf.BatchLoss(model, [(x.to(dtype), y) for x, y in batches(*sizes)], nn.functional.cross_entropy)


def vector_like(model: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]


@pytest.mark.parametrize("sizes", [(12,), (7, 3, 2)])
def test_a_product_is_that_of_the_whole_hessian(sizes: tuple[int, ...]) -> None:
    model = small()
    vector, whole = vector_like(model), whole_hessian(model, *sizes)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = state_of(model)
    found = hpf.hessian_product(loss_in(model, *sizes), model.parameters(), vector)
    assert state_of(model) == before
    np.testing.assert_allclose(flat(found), whole @ flat(vector).numpy(), atol=1e-10)


@pytest.mark.parametrize("sizes", [(12,), (7, 3, 2)])
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenvalues_and_vectors(sizes: tuple[int, ...], which: Any) -> None:
    model = small()
    whole = whole_hessian(model, *sizes)
    every = np.linalg.eigvalsh(whole)
    order = {"largest": -every, "smallest": every, "magnitude": -np.abs(every)}[which]
    found = hpf.hessian_eigenvalues(
        loss_in(model, *sizes), model.parameters(), 3, which=which, tolerance=1e-9, max_products=500
    )
    np.testing.assert_allclose(found.values, every[np.argsort(order)][:3], rtol=1e-6)
    for value, vector in zip(found.values, found.vectors, strict=True):
        v = flat(vector).numpy()
        assert np.linalg.norm(v) == pytest.approx(1)
        np.testing.assert_allclose(whole @ v, value * v, atol=1e-6)


def test_float32_reaches_the_default_tolerance_and_the_vector_is_a_direction() -> None:
    model = small(torch.float32)
    found = hpf.hessian_eigenvalues(loss_of(model, 12), model.parameters())
    top = np.linalg.eigvalsh(whole_hessian(small(), 12))[-1]
    assert found.values[0] == pytest.approx(top, rel=1e-3)
    assert found.num_products < 60
    # The second difference of the loss along the vector is the eigenvalue.
    step = 0.05
    low, mid, high = hpf.loss_line(loss_of(model, 12), model.parameters(), found.vectors[0], [-step, 0, step])
    assert (high - 2 * mid + low) / step**2 == pytest.approx(found.values[0], rel=0.02)


def test_the_whole_matrix_of_few_weights_and_all_eigenvalues() -> None:
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return w[0] ** 2 * w[1] + w[2] ** 4

    exact = np.array([[2 * -2.0, 2 * 1.0, 0], [2 * 1.0, 0, 0], [0, 0, 12 * 0.25]])
    found = hpf.hessian_eigenvalues(loss, [w], 3)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(exact)[::-1], atol=1e-12)
    assert found.num_products == 3


def test_the_trace_is_within_its_error_and_exact_for_a_diagonal() -> None:
    model = small()
    exact = np.trace(whole_hessian(model, 12))
    found = hpf.hessian_trace(loss_in(model, 12), model.parameters(), 64)
    assert abs(found.value - exact) < 4 * found.standard_error
    assert found.standard_error < 0.2 * exact
    in_parts = hpf.hessian_trace(loss_in(model, 5, 4, 3), model.parameters(), 64)
    exact = np.trace(whole_hessian(model, 5, 4, 3))
    assert abs(in_parts.value - exact) < 4 * in_parts.standard_error
    w = torch.ones(5, requires_grad=True)
    assert hpf.hessian_trace(lambda: (w**2).sum(), [w], 3) == hpf.HessianTrace(10.0, 0.0, 3)


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_with_norm_layers_and_dropout_no_trace_is_left(batch_norm: str) -> None:
    model = net()
    model.train()
    loss = loss_of(model, 9, 8, batch_norm=batch_norm)
    before = state_of(model)
    vector = vector_like(model)
    product = flat(hpf.hessian_product(loss, model.parameters(), vector))
    hpf.hessian_eigenvalues(loss, model.parameters(), tolerance=0.1)
    hpf.hessian_trace(loss, model.parameters(), 2)
    assert state_of(model) == before
    # Against the difference of two gradients.
    twin, gradients = net().double(), []
    wide = hpf.BatchLoss(twin, [(x.double(), y) for x, y in loss.batches], loss.loss_function, batch_norm=batch_norm)
    for sign in (-1, 1):
        with torch.no_grad():
            for parameter, start, v in zip(twin.parameters(), model.parameters(), vector, strict=True):
                parameter.copy_(start.double() + sign * 1e-5 * v)
        gradients.append(flat(torch.autograd.grad(wide(), list(twin.parameters()))))
    torch.testing.assert_close(product, (gradients[1] - gradients[0]) / 2e-5, rtol=1e-3, atol=1e-3)


def test_a_model_that_draws_numbers_draws_the_same_in_each_product() -> None:
    model = net(norm=False)
    model.train()
    ((x, y),) = batches(8)
    parameters, vector = list(model.parameters()), vector_like(model)

    class Drawn:
        def parts(self) -> list[Any]:
            return [self, self]

        def __call__(self) -> Tensor:
            return nn.functional.cross_entropy(model(x), y)

    before = state_of(model)
    first, second = (hpf.hessian_product(Drawn(), parameters, vector) for _ in range(2))
    assert state_of(model) == before
    assert torch.equal(flat(first), flat(second))
    assert torch.equal(flat(first), 2 * flat(hpf.hessian_product(lambda: Drawn()(), parameters, vector)))


def test_attention_has_a_second_derivative() -> None:
    q = torch.randn(1, 2, 4, 8, requires_grad=True)

    def loss() -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q).square().sum()

    assert hpf.hessian_product(loss, [q], [torch.ones_like(q)])[0].any()


class Cube(torch.autograd.Function):
    """Whose derivative is written by hand, without one of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def test_a_function_that_is_derived_once_is_refused_and_not_taken_for_linear() -> None:
    w = torch.ones(2, requires_grad=True)

    def loss() -> Tensor:
        return Cube.apply(w).sum() + (w**2).sum()

    with pytest.raises(RuntimeError, match="once_differentiable"):
        hpf.hessian_product(loss, [w], [torch.ones(2)])
    with pytest.raises(RuntimeError, match="once_differentiable"):
        hpf.hessian_eigenvalues(loss, [w], 1)


def test_a_linear_loss_and_an_unused_parameter_have_zeros() -> None:
    w, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    assert not flat(hpf.hessian_product(lambda: w.sum(), [w, unused], [torch.ones(2), torch.ones(3)])).any()
    many = torch.ones(100, requires_grad=True)
    found = hpf.hessian_eigenvalues(lambda: many.sum(), [many], 2)
    assert found.values.tolist() == [0, 0]
    assert [float(vector[0].norm()) for vector in found.vectors] == [1, 1]
    product = hpf.hessian_product(lambda: (w**3).sum(), [w, unused], [torch.ones(2), torch.ones(3)])
    assert flat(product).tolist() == [6, 6, 0, 0, 0]


def test_weights_that_share_a_gradient_are_counted_once() -> None:
    """The gradient of a sum is one tensor for all its terms; writing to it would write to all of them."""
    a, b = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)

    def loss() -> Tensor:
        return ((a + b) ** 2).sum()

    class Twice:
        def __call__(self) -> Tensor:
            return 2 * loss()

        def parts(self) -> list[Any]:
            return [loss, loss]

    product = hpf.hessian_product(Twice(), [a, b], [torch.ones(3), torch.zeros(3)])
    assert flat(product).tolist() == [4.0] * 6
    assert product[0].data_ptr() != product[1].data_ptr()
    exact = 2 * ((2 + 2 * 0.3 / 6**0.5) ** 2 - 4) * 3
    assert hpf.ascent_rise(Twice(), [a, b], 0.3) == pytest.approx(exact, rel=1e-5)


def test_it_works_under_no_grad_and_inference_mode() -> None:
    w = torch.tensor([3.0], requires_grad=True)
    with torch.inference_mode():
        assert hpf.hessian_product(lambda: (w**3).sum(), [w], [torch.ones(1)])[0].tolist() == [18.0]
    with torch.no_grad():
        assert hpf.hessian_eigenvalues(lambda: (w**3).sum(), [w]).values.tolist() == [18.0]


def test_what_cannot_be_computed_gets_a_sentence() -> None:
    model = small(torch.float32)
    with pytest.raises(RuntimeError, match="Expected 2 eigenvalues of the Hessian within 5 products"):
        hpf.hessian_eigenvalues(loss_of(model), model.parameters(), 2, max_products=5)
    w = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="Expected finite second derivatives"):
        hpf.hessian_eigenvalues(lambda: w.abs().sqrt().sum(), [w])
    with pytest.raises(ValueError, match="depends on none of them"):
        hpf.hessian_product(lambda: w.detach().sum(), [w], [torch.ones(1)])
    with pytest.raises(ValueError, match="require a gradient, but it is frozen"):
        hpf.hessian_trace(lambda: w.sum(), [torch.ones(1)])


def test_the_values_are_those_of_pyhessian() -> None:
    pyhessian = pytest.importorskip("pyhessian")
    model = small(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it keeps the graph of `.grad`
        other = pyhessian.hessian(model, nn.CrossEntropyLoss(), data=batches(12)[0], cuda=False)
    values, vectors = other.eigenvalues(maxIter=300, tol=1e-5, top_n=1)
    found = hpf.hessian_eigenvalues(loss_of(model, 12), model.parameters())
    assert found.values[0] == pytest.approx(values[0], rel=1e-3)
    assert abs(float(flat(found.vectors[0]) @ flat(vectors[0]))) == pytest.approx(1, abs=1e-2)
