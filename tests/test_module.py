"""Module: registration, names, state, modes, placement, copies and repr; the containers."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch_twins import randomized
from torch_twins import twin as torch_twin
from twin import Programs, assert_twins, check, data, fill, small_net

import minires
from minires import nn

program = Programs()


# Registration and names


def tied_net(lib):
    class Tied(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = lib.nn.Linear(2, 2)
            self.b = self.a
            self.c = lib.nn.Linear(2, 2)
            self.c.weight = self.a.weight
            self.register_buffer("count", lib.zeros(1))
            self.register_buffer("scratch", lib.zeros(2), persistent=False)
            self.register_buffer("absent", None)
            self.register_parameter("nothing", None)
            self.d = None

    return Tied()


@program
def names_of_a_net_that_shares(lib):
    net = tied_net(lib)
    return [
        [name for name, _ in net.named_parameters()],
        [name for name, _ in net.named_parameters(remove_duplicate=False)],
        [name for name, _ in net.named_parameters(recurse=False)],
        [name for name, _ in net.named_parameters(prefix="p")],
        [name for name, _ in net.named_buffers()],
        [name for name, _ in net.named_modules()],
        [name for name, _ in net.named_modules(prefix="p")],
        [name for name, _ in net.named_children()],
        list(net.state_dict()),
        list(net.state_dict(prefix="p.")),
        [len(list(walk)) for walk in (net.parameters(), net.buffers(), net.modules(), net.children())],
    ]


@program
def assigning_again_keeps_the_order(lib):
    linear = lib.nn.Linear(2, 2)
    linear.weight = lib.nn.Parameter(lib.ones(2, 2))
    net = lib.nn.Module()
    net.a, net.b = lib.nn.ReLU(), lib.nn.Tanh()
    net.a = lib.nn.Sigmoid()
    return list(linear.state_dict()), [type(m).__name__ for m in net.children()]


@program
def one_name_holds_one_thing(lib):
    net = lib.nn.Module()
    net.x = 3
    net.x = lib.nn.ReLU()
    seen = [[name for name, _ in net.named_children()]]
    net.x = lib.nn.Parameter(lib.ones(1))
    seen.append([name for name, _ in net.named_parameters()])
    seen.append([name for name, _ in net.named_children()])
    del net.x
    return [*seen, hasattr(net, "x"), len(list(net.parameters()))]


@program
def refuse_a_module_as_parameter(lib):
    lib.nn.Linear(1, 1).weight = lib.nn.ReLU()


@program
def none_keeps_the_name(lib):
    linear = lib.nn.Linear(2, 2)
    linear.bias = None
    linear.bias = lib.nn.Parameter(lib.ones(2))
    linear.bias = None
    return linear.bias, list(linear.state_dict())


@program
def buffers_can_be_replaced(lib):
    norm = lib.nn.BatchNorm1d(2)
    norm.running_mean = lib.ones(2)
    return norm.state_dict()["running_mean"], [name for name, _ in norm.named_buffers()]


@program
def plain_tensors_are_plain_attributes(lib):
    net = lib.nn.Module()
    net.x = lib.ones(2)
    return list(net.state_dict()), net.x


@program
def lookup_by_dotted_name(lib):
    net = lib.nn.Sequential(lib.nn.Sequential(lib.nn.BatchNorm1d(2)))
    return (
        type(net.get_submodule("0.0")).__name__,
        net.get_submodule("") is net,
        net.get_parameter("0.0.weight") is net[0][0].weight,
        net.get_buffer("0.0.running_var") is net[0][0].running_var,
    )


@program
def refuse_a_missing_submodule(lib):
    lib.nn.Sequential(lib.nn.ReLU()).get_submodule("0.1")


@program
def refuse_a_missing_parameter(lib):
    lib.nn.Sequential(lib.nn.ReLU()).get_parameter("0.weight")


@program
def refuse_a_missing_attribute(lib):
    lib.nn.Linear(1, 1).wieght  # noqa: B018


@program
def refuse_a_tensor_as_parameter(lib):
    lib.nn.Linear(1, 1).weight = lib.ones(1, 1)


@program
def refuse_a_number_as_module(lib):
    lib.nn.Sequential(lib.nn.ReLU())[0] = 3


@program
def refuse_a_number_as_buffer(lib):
    lib.nn.BatchNorm1d(2).running_mean = 3


@program
def refuse_assignment_before_init(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            self.weight = lib.nn.Parameter(lib.ones(1))

    Net()


@program
def refuse_to_register_a_dotted_name(lib):
    lib.nn.Module().register_buffer("a.b", lib.ones(1))


@program
def refuse_to_register_an_empty_name(lib):
    lib.nn.Module().add_module("", lib.nn.ReLU())


@program
def refuse_to_register_over_an_attribute(lib):
    lib.nn.Module().register_parameter("forward", lib.nn.Parameter(lib.ones(1)))


@program
def refuse_to_register_over_another_kind(lib):
    lib.nn.Linear(1, 1).register_buffer("weight", lib.ones(1))


@program
def refuse_to_register_a_tensor_as_parameter(lib):
    lib.nn.Module().register_parameter("x", lib.ones(1))


@program
def refuse_to_add_what_is_no_module(lib):
    lib.nn.Module().add_module("x", lib.ones(1))


@program
def refuse_a_module_without_forward(lib):
    lib.nn.Module()(1)


@program
def parameter_shares_its_memory(lib):
    x = lib.ones(2)
    parameter = lib.nn.Parameter(x)
    x.add_(1)
    return parameter, parameter.is_leaf, lib.nn.Parameter(x, requires_grad=False).requires_grad


# State


@program
def state_is_a_view_and_needs_no_gradient(lib):
    linear = lib.nn.Linear(2, 1)
    state = linear.state_dict()
    state["weight"].zero_()
    return linear.weight.sum().item(), state["weight"].requires_grad


@program
def state_loads_by_value_and_converts(lib):
    linear = lib.nn.Linear(2, 1)
    result = linear.load_state_dict({"weight": data(lib, 1, 2), "bias": lib.tensor([3])})
    return linear.weight, linear.bias, list(result)


@program
def state_loads_what_fits_if_not_strict(lib):
    linear = lib.nn.Linear(2, 1)
    result = linear.load_state_dict({"weight": lib.ones(1, 2), "gain": lib.ones(1)}, strict=False)
    return linear.weight, result.missing_keys, result.unexpected_keys


@program
def refuse_a_state_of_another_shape_even_if_not_strict(lib):
    lib.nn.Linear(2, 1).load_state_dict({"weight": lib.ones(2, 2)}, strict=False)


@program
def refuse_a_state_that_misses(lib):
    lib.nn.Linear(2, 1).load_state_dict({"weight": lib.ones(1, 2)})


@program
def refuse_a_state_with_more(lib):
    lib.nn.Linear(2, 1, bias=False).load_state_dict({"weight": lib.ones(1, 2), "bias": lib.ones(1)})


@program
def refuse_a_state_of_numbers(lib):
    lib.nn.Linear(1, 1, bias=False).load_state_dict({"weight": 3.0})


@program
def refuse_a_state_that_is_a_list(lib):
    lib.nn.Linear(1, 1).load_state_dict([lib.ones(1)])


def test_state_that_does_not_fit_is_listed_whole_and_changes_nothing():
    net = small_net(minires)
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    state = {name: minires.zeros(*value.shape) for name, value in net.state_dict().items()}
    del state["norm.running_var"], state["first.bias"]
    state["extra"] = minires.zeros(1)
    state["last.weight"] = minires.zeros(7, 4)
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    for part in ("first.bias", "norm.running_var", "extra", "last.weight has shape (7, 4), this model needs (2, 4)"):
        assert part in str(caught.value)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {f"model.{name}": value for name, value in state.items()}, "minires.training.load_model"),
        (
            lambda state: {**{f"model.{name}": v for name, v in state.items()}, "optimizer.x": minires.ones(1)},
            "begin with 'model.': load a checkpoint of minires train with minires.training.load_model",
        ),
        (lambda state: {f"module.{name}": v for name, v in state.items()}, "begin with 'module.': take that off"),
        (lambda state: {"state_dict": state}, "state_dict is a dict itself: load that one"),
        (lambda state: {}, "missing: conv1.weight, .*, and 91 more$"),
        (lambda state: {**state, **{f"extra.{i}": minires.ones(1) for i in range(1000)}}, "extra.5, and 994 more$"),
        (lambda state: {**state, "x" * 10**6: minires.ones(1)}, "unexpected: xxx"),
        (lambda state: {**state, 3: minires.ones(1)}, "unexpected: 3$"),
        (lambda state: {name: minires.ones(7) for name in state}, r"has shape \(7,\), .*\n  and 110 more$"),
        (lambda state: {name: [1.0] for name in state}, "conv1.weight is a builtins.list, which is no array"),
    ],
)
def test_an_error_about_a_state_is_short(change, message):
    net = minires.models.resnet20()
    with pytest.raises(RuntimeError, match=f"(?s)^the state does not fit CifarResNet:\n  .*{message}") as caught:
        net.load_state_dict(change(net.state_dict()))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("of", [minires.ones(1), nn.Linear(1, 1)], ids=["Tensor", "Module"])
@pytest.mark.parametrize("target", ["gpu", "cude", "float31", 3, torch.float32, torch.device("cpu")])
def test_a_target_of_to_that_is_no_place_or_dtype_says_what_is(of, target):
    with pytest.raises((TypeError, ValueError), match=r'neither a device .*"cuda".* nor a dtype .*minires.float32'):
        of.to(target)


def test_a_module_moves_to_the_dtype_of_a_tensor():
    assert nn.Linear(1, 1).to(minires.ones(1, dtype=minires.float64)).weight.dtype == np.float64


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_state_of_a_pytorch_model_loads_as_it_is(name):
    theirs, ours = randomized(torch_twin(name)), minires.models.get_model(name, weights=None).double()
    assert list(ours.load_state_dict(theirs.state_dict())) == [[], []]
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key].numpy(), value.numpy(), err_msg=key)


@pytest.mark.parametrize(
    "state_of",
    [
        lambda layer: layer.state_dict(),
        lambda layer: dict(layer.named_parameters()),  # which require gradients
        lambda layer: {name: value.numpy() for name, value in layer.state_dict().items()},
    ],
    ids=["state dict", "parameters", "arrays"],
)
def test_state_of_a_pytorch_layer_loads_as_tensors_or_arrays(state_of):
    theirs, ours = torch.nn.Linear(2, 2), nn.Linear(2, 2)
    ours.load_state_dict(state_of(theirs))
    theirs.weight.data.zero_()  # the values were copied
    assert ours.weight.detach().numpy().all()
    np.testing.assert_array_equal(ours.bias.detach().numpy(), theirs.bias.detach().numpy())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "weight is a builtins.float, which is no array: give it as a minires.Tensor or a NumPy array"),
        ([[3.0]], "weight is a builtins.list"),
        (OrderedDict(), "weight is a collections.OrderedDict"),
        (np.array([["3"]]), "weight is a numpy.ndarray of <U1: convert it"),
        (torch.ones(1, 1, dtype=torch.bfloat16), "weight is a torch.Tensor that NumPy cannot read .*convert it"),
    ],
)
def test_state_of_values_that_are_no_arrays_is_refused(value, message):
    linear = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match=message):
        linear.load_state_dict({"weight": value, "bias": np.ones(1)})
    assert linear.bias.item() != 1.0


# Modes and placement


@program
def modes_reach_everything_below(lib):
    net = lib.nn.Sequential(lib.nn.Sequential(lib.nn.Dropout()), lib.nn.ReLU())
    seen = [m.training for m in net.modules()]
    same = net.eval() is net
    seen += [m.training for m in net.modules()]
    net[0].train()
    return seen + [m.training for m in net.modules()], same


@program
def refuse_a_mode_that_is_no_bool(lib):
    lib.nn.ReLU().train("yes")


@program
def apply_visits_children_first(lib):
    net, seen = lib.nn.Sequential(lib.nn.Sequential(lib.nn.ReLU()), lib.nn.Tanh()), []
    same = net.apply(lambda module: seen.append(type(module).__name__)) is net
    return seen, same


@program
def gradients_are_forgotten(lib):
    linear = fill(lib, lib.nn.Linear(2, 1))
    linear(data(lib, 3, 2)).sum().backward()
    linear.zero_grad(set_to_none=False)
    zeros = linear.weight.grad.clone()
    linear.zero_grad()
    return zeros, linear.weight.grad


@program
def gradients_with_a_graph_are_zeroed(lib):
    linear = fill(lib, lib.nn.Linear(2, 1))
    (linear(data(lib, 3, 2)) ** 2).sum().backward(create_graph=True)
    linear.zero_grad(set_to_none=False)
    return linear.weight.grad


@program
def frozen_part_gets_no_gradient(lib):
    net = small_net(lib)
    net.first.requires_grad_(False)
    net(data(lib, 5, 3)).sum().backward()
    return [parameter.grad for parameter in net.parameters()]


@program
def dtype_changes_floats_only(lib):
    norm = lib.nn.BatchNorm1d(2)
    norm.weight.grad = lib.ones(2)
    parameter = norm.weight
    norm.to(lib.float64)
    return norm.weight, norm.weight.grad, norm.num_batches_tracked, norm.running_mean, norm.weight is parameter


@program
def refuse_integers_for_parameters(lib):
    lib.nn.Linear(1, 1).to(lib.int64)


@program
def an_optimizer_keeps_its_parameters(lib):
    linear = fill(lib, lib.nn.Linear(2, 1)).float()
    optimizer = lib.optim.SGD(linear.parameters(), lr=0.5)
    linear.double()
    linear(data(lib, 3, 2)).sum().backward()
    optimizer.step()
    return linear.weight, linear.bias


def test_to_what_it_is_already_leaves_a_graph_in_peace():
    linear = nn.Linear(2, 1)
    x = minires.ones(3, 2, requires_grad=True)
    loss = linear(x).sum()
    linear.to("cpu").float()
    loss.backward()
    assert x.grad is not None


def test_conversion_between_forward_and_backward_is_noticed():
    linear = nn.Linear(2, 1)
    loss = linear(minires.ones(3, 2, requires_grad=True)).sum()
    linear.double()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


# Copies


def same_state(a, b):
    assert list(a.state_dict()) == list(b.state_dict())
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), b.state_dict()[name].numpy())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_copy_of_a_net_is_whole_and_apart(copied):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.ModuleList([nn.Linear(3, 3)]))
    net[3].append(net[3][0])
    net.eval()
    twin = copied(net)
    same_state(net, twin)
    assert repr(twin) == repr(net)
    assert not twin.training
    assert twin[3][0] is twin[3][1]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in twin.parameters())
    assert twin[0].weight.array.strides == net[0].weight.array.strides
    with minires.no_grad():
        twin[0].weight.zero_()
    assert net[0].weight.abs().sum().item() > 0


def test_deepcopy_keeps_gradients_and_frozen_parameters():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    net(minires.ones(1, 2)).sum().backward()
    twin = copy.deepcopy(net)
    assert not twin.bias.requires_grad
    np.testing.assert_array_equal(twin.weight.grad.numpy(), net.weight.grad.numpy())
    assert twin.weight.grad is not net.weight.grad


# Containers


@program
def sequential_is_indexed_and_sliced(lib):
    net = lib.nn.Sequential(lib.nn.Linear(1, 2), lib.nn.ReLU(), lib.nn.Linear(2, 1))
    net[1] = lib.nn.Tanh()
    net.append(lib.nn.Sigmoid())
    part = net[1:3]
    return len(net), repr(net[-1]), repr(part), part[1] is net[2], [type(m).__name__ for m in net]


@program
def module_list_is_a_list(lib):
    modules = lib.nn.ModuleList([lib.nn.ReLU()])
    modules.append(lib.nn.Tanh()).extend([lib.nn.Linear(1, 1), lib.nn.Linear(1, 1)])
    return len(modules), repr(modules), repr(modules[1:]), list(modules.state_dict()), [repr(m) for m in modules]


@program
def module_dict_is_a_dict(lib):
    modules = lib.nn.ModuleDict({"a": lib.nn.ReLU()})
    modules["b"] = lib.nn.Linear(1, 1)
    return len(modules), list(modules), list(modules.keys()), "a" in modules, repr(modules), list(modules.state_dict())


@program
def refuse_an_index_out_of_range(lib):
    lib.nn.Sequential(lib.nn.ReLU())[1]


@program
def refuse_to_run_a_list(lib):
    lib.nn.ModuleList([lib.nn.ReLU()])(1)


@pytest.mark.parametrize("run", program, ids=lambda run: run.__name__)
def test_same_program_same_result_as_pytorch(run):
    check(run)


LAYERS = [
    "nn.Linear(2, 3)",
    "nn.Linear(2, 3, bias=False)",
    "nn.Conv2d(2, 4, 3)",
    "nn.Conv2d(4, 4, (3, 5), stride=2, padding=(1, 2), dilation=2, groups=2, bias=False)",
    "nn.Conv2d(2, 4, 3, padding='same')",
    "nn.ConvTranspose2d(2, 4, 3, 2, 1, 1)",
    "nn.ConvTranspose2d(2, 4, 3, 2, output_padding=1, groups=2, dilation=3)",
    "nn.MaxPool2d(2)",
    "nn.MaxPool2d(3, 2, 1, return_indices=True, ceil_mode=True)",
    "nn.AvgPool2d(2)",
    "nn.AvgPool2d(3, 2, 1, True, False)",
    "nn.AdaptiveAvgPool2d((1, 1))",
    "nn.AdaptiveAvgPool2d(1)",
    "nn.AdaptiveMaxPool2d(2, return_indices=True)",
    "nn.Unfold(2, padding=1)",
    "nn.Fold((4, 5), 2, stride=2)",
    "nn.Upsample(scale_factor=2)",
    "nn.Upsample(scale_factor=(2, 3), mode='bilinear', align_corners=True)",
    "nn.Upsample(4)",
    "nn.BatchNorm1d(3)",
    "nn.BatchNorm2d(3, eps=0.1, momentum=None, affine=False, track_running_stats=False)",
    "nn.BatchNorm2d(3, bias=False)",
    "nn.ReLU()",
    "nn.ReLU(inplace=True)",
    "nn.ReLU6(True)",
    "nn.LeakyReLU()",
    "nn.LeakyReLU(0.2, True)",
    "nn.SiLU()",
    "nn.GELU('tanh')",
    "nn.Sigmoid()",
    "nn.Tanh()",
    "nn.Softmax(dim=1)",
    "nn.LogSoftmax(1)",
    "nn.Dropout(0.2)",
    "nn.Flatten()",
    "nn.Identity(3, a=4)",
    "nn.CrossEntropyLoss(label_smoothing=0.1)",
    "nn.NLLLoss()",
    "nn.MSELoss(reduction='sum')",
    "nn.L1Loss()",
    "nn.SmoothL1Loss(beta=2.0)",
    "nn.BCEWithLogitsLoss()",
    "nn.Sequential()",
    "nn.ModuleList()",
    "nn.ModuleDict()",
    "nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())))",
    "nn.ModuleList([nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()), nn.Tanh(), nn.ReLU()])",
]


@pytest.mark.parametrize("text", LAYERS)
def test_repr_equals_pytorchs(text):
    assert_twins(lambda lib: repr(eval(text, {"nn": lib.nn})))


def test_names_and_shapes_of_parameters_in_a_repr():
    assert repr(nn.Parameter(minires.ones(2))).startswith("Parameter containing:\ntensor([1., 1.]")


def test_attributes_of_every_kind_are_deleted():
    module = nn.BatchNorm1d(2)
    module.plain, module.child = 1, nn.ReLU()
    for name in ("plain", "child", "weight", "running_mean", "eps"):
        delattr(module, name)
        assert not hasattr(module, name)
    assert list(module.state_dict()) == ["bias", "running_var", "num_batches_tracked"]


def test_deleting_what_is_not_there_loses_nothing():
    module = nn.BatchNorm1d(2)
    with pytest.raises(AttributeError, match="forward_count"):
        del module.forward_count
    with pytest.raises(AttributeError, match="forward"):
        del module.forward  # which the class has
    assert len(module.state_dict()) == 5
