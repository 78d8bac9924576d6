"""The perceptual loss against plain modules, by the weights of a VGG-16 with few filters."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import safetensors.torch
import torch
from torch import nn

from colourize import tasks, training
from colourize.evaluation import evaluate
from colourize.files import UserError
from colourize.perceptual import LAYERS, WEIGHTS, PerceptualLoss
from colourize.runs import Run
from colourize.settings import Settings
from colourize.tables import training as training_table
from colourize.tasks.base import Palette

WIDTHS = 4, 4, "M", 5, 6, "M", 6, 7, 8, "M", 8, 8, 8, "M", 9, 9, 9, "M"
BEHIND = {"relu1_2": 4, "relu2_2": 9, "relu3_3": 16, "relu4_3": 23}  # modules of torchvision's `features`


def vgg16(widths=WIDTHS):
    """torchvision's `features`, narrower."""
    torch.manual_seed(0)
    modules, channels = [], 3
    for width in widths:
        if width == "M":
            modules.append(nn.MaxPool2d(2))
        else:
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            nn.init.kaiming_normal_(modules[-2].weight)  # so that activations stay as large as they are
            channels = width
    return nn.Sequential(*modules)


def state(widths=WIDTHS):
    found = {f"features.{name}": tensor for name, tensor in vgg16(widths).state_dict().items()}
    return {**found, "classifier.0.weight": torch.zeros(3, 3)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(state(), path)
    return path


def pictures(seed, *size):
    return torch.rand(*(size or (2, 3, 21, 18)), generator=torch.Generator().manual_seed(seed))


def plain(made, wanted, names):
    """The loss by plain modules, in float64."""
    modules, total = vgg16().double(), 0
    mean, deviation = (torch.tensor(v).double()[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for name in names:
        a, b = (modules[: BEHIND[name]]((x.double() * 256 / 255 - mean) / deviation) for x in (made, wanted))
        total = total + (a - b).square().flatten(1).sum(1) / a[0].numel()
    return total


@pytest.mark.parametrize("names", [*BEHIND, "relu4_3+relu1_2"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_loss_and_gradient_are_those_of_plain_modules(weights, names, layout):
    made, wanted = (pictures(seed).contiguous(memory_format=layout) for seed in (1, 2))
    made.requires_grad_()
    exact = made.detach().double().requires_grad_()
    loss = PerceptualLoss(str(weights), names)(made, wanted)
    expected = plain(exact, wanted, names.split("+"))
    assert loss.shape == (2,)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), made)
    (exact_gradient,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-5 * exact_gradient.abs().max().item())


def test_gradient_is_that_of_differences(weights):
    loss = PerceptualLoss(str(weights), "relu1_2+relu2_2")
    loss.load().double()
    made, wanted = pictures(1, 1, 3, 4, 5).double().requires_grad_(), pictures(2, 1, 3, 4, 5).double()
    torch.autograd.gradcheck(lambda made: loss(made, wanted), made)


def test_the_network_stays_as_it_is_and_without_gradients(weights):
    loss = PerceptualLoss(str(weights))
    made, wanted = pictures(1).requires_grad_(), pictures(2).requires_grad_()
    loss(made, wanted).sum().backward()
    assert wanted.grad is None and made.grad is not None
    parameters = dict(loss.load().named_parameters())
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in parameters.values())
    assert torch.equal(parameters["convs.relu1_1.weight"], state()["features.0.weight"])
    assert list(loss.load().convs) == ["relu1_1", "relu1_2", "relu2_1", "relu2_2"]  # what is behind is not run


def test_layers_are_numbered_as_in_torchvision():
    convolutions = [name for name, module in vgg16().named_children() if isinstance(module, nn.Conv2d)]
    loss = {name: tensor for name, tensor in state().items() if name.endswith("weight") and "features" in name}
    assert len(LAYERS) == len(convolutions) == len(loss) == 13
    assert LAYERS[-1] == "relu5_3"


def test_files_of_either_kind_and_half_precision(weights, tmp_path):
    safetensors.torch.save_file(state(), tmp_path / "vgg16.safetensors")
    torch.save({name: tensor.half() for name, tensor in state().items()}, tmp_path / "half.pt")
    losses = [
        PerceptualLoss(str(path))(pictures(1), pictures(2))
        for path in (weights, tmp_path / "vgg16.safetensors", tmp_path / "half.pt")
    ]
    assert torch.equal(losses[0], losses[1])
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-2, atol=0)


def test_weights_that_are_read_during_an_evaluation_serve_a_training(weights):
    loss = PerceptualLoss(str(weights))
    with torch.inference_mode():
        loss(pictures(1), pictures(2))
    made = pictures(1).requires_grad_()
    loss(made, pictures(2)).sum().backward()
    assert made.grad.abs().max() > 0


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def changed(name, tensor):
    return lambda path: {**state(), name: tensor}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path: {}, "naming: it lacks features.0.weight, for relu1_1"),
        (lambda path: [1, 2], "naming: it is a list"),
        (lambda path: {k: v for k, v in state().items() if "7.bias" not in k}, "lacks features.7.bias, for relu2_2"),
        (changed("features.2.weight", torch.zeros(4, 9, 3, 3)), r"features.2.weight must be floats \(K, 4, 3, 3\)"),
        (changed("features.0.weight", torch.zeros(())), r"features.0.weight must be floats \(K, 3, 3, 3\).*\(\)"),
        (changed("features.0.weight", torch.zeros(0, 3, 3, 3)), r"features.0.weight must be floats.*\(0, 3, 3, 3\)"),
        (changed("features.0.bias", torch.zeros(5)), r"features.0.bias must be floats \(K\), not .*\(5,\)"),
        (changed("features.0.bias", torch.zeros(4, dtype=torch.int64)), r"features.0.bias must be floats.*int64"),
        (changed("features.5.bias", torch.full((5,), torch.nan)), "features.5.bias holds values that are not finite"),
        (lambda path: {"features.0.weight": Hostile(path)}, r"more than tensors \(Weights only load failed\)$"),
    ],
)
def test_files_that_are_not_vgg16_are_named(tmp_path, content, message):
    torch.save(content(tmp_path / "ran"), tmp_path / "file.pth")
    with pytest.raises(UserError, match=message) as error:
        PerceptualLoss(str(tmp_path / "file.pth")).load()
    assert str(tmp_path / "file.pth") in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_missing_and_damaged_files_are_named(tmp_path, weights, name):
    with pytest.raises(UserError, match=f"cannot read .*{name}: there is no such file"):
        PerceptualLoss(str(tmp_path / name)).load()
    for content in (b"", b"<html>404</html>" * 100, weights.read_bytes()[:3000]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read .*{name}: it is damaged"):
            PerceptualLoss(str(tmp_path / name)).load()


@pytest.fixture
def server(weights, monkeypatch, tmp_path):
    """Serves `answer`, the weights of this test, whatever is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(server.answer)))
            self.end_headers()
            self.wfile.write(server.answer)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.status, server.requests = weights.read_bytes(), 200, []
    server.digest = hashlib.sha256(server.answer).hexdigest()
    server.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("COLOURIZE_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloads_once_and_checks(server, weights, tmp_path):
    named = f"vgg16-{server.digest[:8]}.pth"
    expected = PerceptualLoss(str(weights))(pictures(1), pictures(2))
    for path in (named, named, f"other.pth#sha256={server.digest}"):
        assert torch.equal(PerceptualLoss(f"{server.address}/{path}")(pictures(1), pictures(2)), expected)
    assert server.requests == [f"/{named}", "/other.pth"]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {named, f"{server.digest[:16]}-other.pth"}


def test_other_content_is_refused_and_not_kept(server, tmp_path):
    url = f"{server.address}/vgg16-00000000.pth"
    with pytest.raises(UserError, match=f"{url} is incomplete or damaged: SHA256 {server.digest}, not 00000000"):
        PerceptualLoss(url).load()
    server.status = 404
    with pytest.raises(UserError, match="cannot download http.*404.*; with a copy at hand, give .*--loss-weights"):
        PerceptualLoss(url).load()
    assert list((tmp_path / "cache").iterdir()) == []


def test_files_of_one_name_are_kept_apart_by_their_digests(server, tmp_path):
    PerceptualLoss(f"{server.address}/a/vgg16.pth#sha256={server.digest}").load()
    with pytest.raises(UserError, match="incomplete or damaged"):
        PerceptualLoss(f"{server.address}/b/vgg16.pth#sha256={'0' * 64}").load()
    assert len(server.requests) == 2


def test_addresses_without_a_checksum_and_unreachable_ones_are_named(server):
    with pytest.raises(UserError, match="sha256=DIGEST"):
        PerceptualLoss(f"{server.address}/vgg16.pth").load()
    assert server.requests == []
    with pytest.raises(UserError, match="cannot download http://127.0.0.1:1/a.pth: .*refused"):
        PerceptualLoss("http://127.0.0.1:1/a.pth#sha256=01234567").load()


def test_torchvision_s_weights_are_those_of_its_convention():
    """Its files are called NAME-DIGEST.pth, by how their SHA-256 begins."""
    assert PerceptualLoss().source == WEIGHTS and WEIGHTS.endswith("/vgg16-397923af.pth")


def test_small_pictures_are_refused(weights):
    loss = PerceptualLoss(str(weights), "relu4_3")
    loss(pictures(1, 1, 3, 8, 8), pictures(2, 1, 3, 8, 8))
    with pytest.raises(UserError, match="relu4_3 takes 8 × 8 pixels or more, not 7 × 9"):
        loss(pictures(1, 1, 3, 7, 9), pictures(2, 1, 3, 7, 9))


@pytest.mark.parametrize("names", ["relu6_1", "", "relu1_2,relu2_2"])
def test_unknown_layers_are_named(names):
    with pytest.raises(UserError, match="loss_layers must be one or more of relu1_1, .*joined by"):
        Settings("regression", "cnn", loss="perceptual", loss_layers=names)


TASKS = [name for name in tasks.NAMES if "perceptual" in tasks.kind(name).loss_names]


@pytest.mark.parametrize("name", TASKS)
def test_tasks_compare_pictures(weights, name):
    palette = Palette(torch.tensor([[0.0, 0.0, 0.0], [0.75, 0.25, 0.25], [0.9, 0.9, 0.9]]))
    loss = PerceptualLoss(str(weights))
    task = tasks.kind(name)(palette, loss="perceptual", perceptual=loss)
    batch = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = task.target(batch)
    output = torch.randn(2, task.out_channels, 12, 12, generator=torch.Generator().manual_seed(1))
    made, wanted = (output, target) if not task.has_classes else (task.blend(output), palette.colours(target))
    assert torch.equal(task.losses(output, target), loss(made, wanted))
    assert torch.equal(task.loss(output, target), loss(made, wanted).mean())


def test_tasks_with_pictures_have_it():
    assert {"regression", "superres", "enlarge2", "enlarge3", "enlarge4"} <= set(TASKS)
    with pytest.raises(ValueError, match="perceptual needs"):
        tasks.kind("regression")(loss="perceptual").loss(pictures(1), pictures(2))


@pytest.mark.parametrize(
    "options", [{"task": "enlarge2", "network": "enlarger", "depth": 1, "lr": 1e-3}, {"task": "regression"}]
)
def test_training_lowers_it_and_goes_on_to_the_bit(weights, tiny, tmp_path, options):
    settings = tiny.replace(loss="perceptual", loss_weights=str(weights), schedule="constant", **options)
    run = training.train(settings.replace(epochs=2), tmp_path / "run")
    losses = [row["validation_loss"] for row in run.metrics]
    assert losses[1] < losses[0]
    training.train(settings.replace(epochs=1), tmp_path / "parts")
    parts = training.train(settings.replace(epochs=2), tmp_path / "parts", resume=True)
    for name, tensor in run.load_network().state_dict().items():
        assert torch.equal(tensor, parts.load_network().state_dict()[name])
    scores = evaluate(Run.open(tmp_path / "run"), training.load_data(settings)).scores["network"]
    assert scores["loss"] == pytest.approx(losses[1], rel=1e-6)
    training_table(run)


def test_missing_weights_stop_a_training_before_it_begins(tiny, tmp_path):
    settings = tiny.replace(task="regression", loss="perceptual", loss_weights=str(tmp_path / "no.pth"))
    with pytest.raises(UserError, match=r"no\.pth: there is no such file"):
        training.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
