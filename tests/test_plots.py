"""Pictures contain what they should, in the place where it belongs."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

import sdegen
from sdegen import plots
from sdegen.metrics.estimate import Estimate

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed():
    plt.close("all")  # what other tests have left open
    yield
    plt.close("all")


def gaussian(mean, std):
    return sdegen.GaussianMixture(torch.ones(1), torch.tensor([mean]), torch.full((1,), std**2))


def pixels(image):
    """The picture's values and the centres of its pixels along both axes."""
    values = np.asarray(image.get_array())
    left, right, low, high = image.get_extent()
    rows, columns = (np.arange(n) + 0.5 for n in values.shape)
    x, y = left + columns * (right - left) / values.shape[1], low + rows * (high - low) / values.shape[0]
    return values, x, y


def test_density_is_brightest_at_the_mode():
    ax = plots.density(gaussian([1.5, -0.75], 0.3), extent=3.0, points=81)
    values, x, y = pixels(ax.images[0])
    row, column = np.unravel_index(values.argmax(), values.shape)
    step = 6 / 80
    assert abs(x[column] - 1.5) <= step / 2 and abs(y[row] + 0.75) <= step / 2
    assert ax.images[0].origin == "lower"  # so that rows count upwards, as y does


def test_density_is_the_density_and_covers_the_law():
    ring = sdegen.data.gaussian_ring()
    values, x, y = pixels(plots.density(ring, points=60).images[0])
    grid = torch.tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
    np.testing.assert_allclose(values.reshape(-1), ring.log_prob(grid).exp().numpy(), rtol=1e-6, atol=1e-12)
    assert values.sum() * (x[1] - x[0]) * (y[1] - y[0]) == pytest.approx(1.0, abs=0.02)


def test_density_needs_no_gradient():
    class Learned:
        weight = torch.ones((), requires_grad=True)

        def log_prob(self, x):
            return -self.weight * x.square().sum(1)

    assert plots.density(Learned(), points=5).images


def test_density_of_a_model_is_that_of_its_law(device, dtype):
    # A fresh EDM model of standard normal data is exact, so the picture is that of N(0, 1).
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.OU()).to(device, dtype)
    model.moments = gaussian([0.0, 0.0], 1.0).moments()
    values, x, y = pixels(plots.density(model, extent=2.0, points=9).images[0])
    expected = np.exp(-0.5 * (x[None, :] ** 2 + y[:, None] ** 2)) / (2 * np.pi)
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_scatter_draws_every_point_where_it_is(device, dtype, generator):
    points = torch.randn(50, 2, dtype=dtype, generator=generator)
    ax = plots.scatter(points.to(device).clone().requires_grad_(), title="points")
    np.testing.assert_allclose(ax.collections[0].get_offsets(), points.numpy())
    assert ax.get_title() == "points"


def test_trajectories_are_one_line_a_path_and_a_mark_at_its_end(generator):
    path = torch.randn(7, 12, 2, generator=generator)
    ax = plots.trajectories(path, most=5)
    assert len(ax.lines) == 5
    for i, line in enumerate(ax.lines):
        np.testing.assert_allclose(np.asarray(line.get_xydata()), path[:, i].numpy(), rtol=1e-6)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), path[-1, :5].numpy(), rtol=1e-6)


def test_trajectories_of_one_coordinate_run_against_time(generator):
    path, times = torch.randn(7, 4, 1, generator=generator), torch.linspace(1, 0, 7)
    for given, clock in ((times, times.numpy()), (None, np.arange(7))):
        ax = plots.trajectories(path, times=given)
        assert len(ax.lines) == 4
        for i, line in enumerate(ax.lines):
            np.testing.assert_allclose(line.get_xdata(), clock)
            np.testing.assert_allclose(line.get_ydata(), path[:, i, 0].numpy())


def test_a_sampled_path_can_be_drawn():
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    path = sdegen.sample(model, 6, steps=5, seed=0, return_path=True)
    ax = plots.trajectories(path)
    assert [len(line.get_xdata()) for line in ax.lines] == [6] * 6  # the start and five moves


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "with derivatives", "turned in sign"])
def test_pictures_take_tensors_that_numpy_has_not(kind, tmp_path, generator):
    def of(*shape):
        x = torch.rand(shape, generator=generator)
        if kind == "with derivatives":
            return x.requires_grad_()
        return torch.complex(x, x).conj().imag if kind == "turned in sign" else x.to(getattr(torch, kind.split()[0]))

    x, path, clock = of(7, 2), of(4, 7, 2), of(4)
    assert np.array_equal(plots.scatter(x).collections[0].get_offsets(), x.detach().double().numpy())
    assert np.array_equal(plots.trajectories(path).lines[2].get_xydata(), path[:, 2].detach().double().numpy())
    line = plots.trajectories(path[..., :1], times=clock).lines[3]
    assert np.array_equal(line.get_xydata()[:, 0], clock.detach().double().numpy())
    assert len(plots.marginals(x, truth=x[0]).axes) == 4
    plots.animation(path, tmp_path / "path.gif", size=50)
    places = of(20).detach().abs()
    drawn = plots.coverage(sdegen.metrics.Coverage(places)).lines[-1].get_xdata()[1:-1]
    assert np.array_equal(drawn, places.double().sort().values.numpy())
    plots.ranks(sdegen.metrics.Ranks(places[:, None]))
    assert 0 <= sdegen.metrics.Coverage(places).p_value <= 1


def test_trajectories_refuse_other_times_than_theirs(generator):
    with pytest.raises(ValueError, match=r"times has shape \(3,\); give one time for each of the 4 states"):
        plots.trajectories(torch.rand(4, 5, 1, generator=generator), times=torch.rand(3, generator=generator))


def test_losses_are_drawn_with_their_moving_mean():
    run = sdegen.Run(loss=[float(i % 7) for i in range(40)])
    raw, mean = plots.losses(run, window=10).lines
    np.testing.assert_allclose(raw.get_ydata(), run.loss)
    for step, value in zip(mean.get_xdata(), mean.get_ydata(), strict=True):
        step = int(step)
        assert value == pytest.approx(np.mean(run.loss[step - 9 : step + 1]))  # of the ten steps up to this one
    assert mean.get_xdata()[-1] == 39
    assert len(plots.losses(run, window=100).lines) == 1  # too short for a mean


def recorded(*losses):
    gan = sdegen.baselines.GAN(sdegen.nets.Perceptron(2, 2), sdegen.nets.Perceptron(2, 1), 2)
    health = sdegen.baselines.Stability(gan, torch.zeros(1, 2), every=5)
    health.records = [{"step": 5 * (i + 1), "L_D": d, "L_G": g} for i, (d, g) in enumerate(losses)]
    return health


def test_losses_of_both_players_are_drawn_at_their_steps():
    critic, generator = plots.players(recorded((1.0, 4.0), (2.0, 3.0))).lines
    assert [*critic.get_xdata()] == [*generator.get_xdata()] == [5, 10]
    assert [*critic.get_ydata(), *generator.get_ydata()] == [1.0, 2.0, 4.0, 3.0]
    with pytest.raises(ValueError, match="health has no records; give it to fit as a callback"):
        plots.players(recorded())


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.density(gaussian([0.0, 0.0], 1.0), ax=ax, points=5),
        lambda ax: plots.scatter(torch.zeros(3, 2), ax=ax),
        lambda ax: plots.trajectories(torch.zeros(3, 2, 2), ax=ax),
        lambda ax: plots.losses(sdegen.Run(loss=[1.0, 2.0]), ax=ax),
        lambda ax: plots.players(recorded((1.0, 2.0), (2.0, 3.0)), ax=ax),
        lambda ax: plots.weights(torch.zeros(3), ax=ax),
        lambda ax: plots.predictions(torch.eye(3), torch.arange(3.0), ax=ax),
    ],
    ids=["density", "scatter", "trajectories", "losses", "players", "weights", "predictions"],
)
def test_a_given_axis_is_drawn_on_and_returned(draw):
    figure, axes = plt.subplots(1, 2)
    assert draw(axes[1]) is axes[1]
    assert axes[1].has_data() and not axes[0].has_data()
    assert plt.get_fignums() == [figure.number]  # and no other picture was opened
    own = draw(None)
    assert own.figure is not figure and own.has_data()


def test_images_stand_in_rows_as_they_come():
    x = torch.arange(5 * 2 * 3).reshape(5, 1, 2, 3) / 29
    values = np.asarray(plots.images(x, columns=2).images[0].get_array())
    assert values.shape == (6, 6, 3) and (values == values[..., :1]).all()
    sheet = torch.from_numpy(values[..., 0].copy())
    for i in range(5):
        row, column = divmod(i, 2)
        assert torch.equal(sheet[2 * row : 2 * row + 2, 3 * column : 3 * column + 3], x[i, 0])
    assert (sheet[4:, 3:] == 1).all()  # what is left over is blank
    colours = torch.rand(4, 3, 5, 5)
    values = np.asarray(plots.images(colours).images[0].get_array())
    np.testing.assert_array_equal(values[5:, 5:], colours[3].permute(1, 2, 0).numpy())
    assert np.asarray(plots.images(torch.full((1, 1, 2, 2), 3.0)).images[0].get_array()).max() == 1
    with pytest.raises(ValueError, match=r"x has shape \(2, 2, 4, 4\); expected images \(N, 1, H, W\) or"):
        plots.images(torch.zeros(2, 2, 4, 4))


def test_images_stand_apart_by_a_gap_of_white():
    x = torch.zeros(3, 1, 2, 3)
    values = np.asarray(plots.images(x, columns=2, gap=4).images[0].get_array())[..., 0]
    assert values.shape == (2 + 4 + 2, 3 + 4 + 3)
    dark = np.zeros_like(values, dtype=bool)
    dark[:2, :3] = dark[:2, 7:] = dark[6:, :3] = True
    np.testing.assert_array_equal(values, np.where(dark, 0.0, 1.0))
    with pytest.raises(ValueError, match="gap = -1; it must be a whole number, at least 0"):
        plots.images(x, gap=-1)


def test_the_validation_is_drawn_with_its_errors():
    run = sdegen.Run(loss=[3.0, 2.0, 1.0], validation={1: Estimate(2.5, 0.1), 3: Estimate(1.5, 0.2)})
    ax = plots.losses(run)
    (drawn,) = ax.containers
    line, _, (bars,) = drawn
    np.testing.assert_allclose(line.get_xydata(), [[1, 2.5], [3, 1.5]])
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[2.4, 2.6], [1.3, 1.7]])


def test_an_album_draws_samples_and_losses_while_a_run_goes_on(tmp_path):
    x = torch.rand(64, 1, 4, 4)
    model = sdegen.Model(sdegen.nets.UNet(1, (32,), classes=2), sdegen.VP())
    album = plots.Album(tmp_path / "album", every=4, n=4, label=torch.arange(4) % 2)
    run = sdegen.fit(model, (x, torch.arange(64) % 2), steps=9, batch_size=8, seed=0, callbacks=[album])
    assert len(run.loss) == 9
    names = sorted(p.name for p in (tmp_path / "album").iterdir())
    assert names == ["loss.png", "samples-00000004.png", "samples-00000008.png"]
    assert plt.imread(tmp_path / "album" / names[1]).std() > 0.05
    with pytest.raises(ValueError, match="every = 0"):
        plots.Album(tmp_path, every=0)


def test_an_album_of_signals_is_drawn_by_what_is_given(tmp_path):
    seen = []
    album = plots.Album(tmp_path, every=1, n=2, low=-1, high=3, steps=1, draw=lambda x, ax: seen.append(x))
    model = sdegen.Model(sdegen.nets.UNet(1, (8,), dims=1), sdegen.VP())
    sdegen.fit(model, torch.rand(16, 1, 5), steps=1, batch_size=8, ema=0.0, callbacks=[album], progress=False)
    x = sdegen.sample(model, 2, steps=1, seed=0, progress=False)
    torch.testing.assert_close(seen[0], (x + 1) / 4)
    with pytest.raises(ValueError, match=r"expected images .* of volumes give slices, x\[:, :, k\]"):
        plots.images(torch.rand(2, 1, 4, 4, 4))


def test_a_curve_of_coverage_is_what_the_metric_says():
    found = sdegen.metrics.Coverage(torch.rand(300, dtype=torch.float64) ** 2)
    line = plots.coverage(found, title="too wide").lines[-1]
    x, y = line.get_xdata(), line.get_ydata()
    for level in (0.1, 0.5, 0.9):
        assert y[np.searchsorted(x, level, side="right") - 1] == pytest.approx(found.at(level).value)


def test_ranks_are_drawn_as_a_density_for_each_coordinate():
    found = sdegen.metrics.Ranks(torch.stack([torch.rand(400), 0.5 * torch.rand(400)], 1).double())
    ax = plots.ranks(found, bins=10, title="shifted")
    assert ax.get_title() == "shifted"
    for column, steps in zip(found.places.T, ax.patches[-2:], strict=True):
        values, edges, _ = steps.get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1.0)
        assert values[-1] == pytest.approx(10 * (column > 0.9).double().mean().item())


def area_by_bins(ax):
    return sum(bar.get_height() * bar.get_width() for bar in ax.patches)


def test_a_statistic_of_the_data_is_marked_among_those_of_replicates():
    replicated = torch.randn(500, 3, dtype=torch.float64)
    ax = plots.replicates(torch.tensor([4.0, 2.0, 0.0]).double(), replicated, lambda x: x.mean(1), bins=9)
    (line,) = ax.lines
    assert line.get_xdata()[0] == pytest.approx(2.0) and area_by_bins(ax) == pytest.approx(1.0)
    ends = [bar.get_x() for bar in ax.patches] + [ax.patches[-1].get_x() + ax.patches[-1].get_width()]
    assert [min(ends), max(ends)] == pytest.approx([f(replicated.mean(1)).item() for f in (torch.min, torch.max)])
    assert (
        ax.get_title()
        == f"above: {sdegen.metrics.predictive_check(torch.full((3,), 2.0).double(), replicated, lambda x: x.mean(1))}"
    )


def test_the_error_of_a_posterior_is_marked_among_those_of_shuffled_labels():
    found = sdegen.metrics.LocalTest(Estimate(0.2, 0.01), 0.25, torch.tensor([0.1, 0.2, 0.3]))
    ax = plots.local_error(found, bins=4)
    assert ax.lines[0].get_xdata()[0] == 0.2 and area_by_bins(ax) == pytest.approx(1.0)
    assert "p = 0.25" in ax.get_title()


def test_the_curve_of_weights_is_what_the_heaviest_draws_hold():
    ax = plots.weights(torch.tensor([0.0, 3.0, 1.0]).double().log())
    diagonal, curve = ax.lines
    np.testing.assert_allclose(curve.get_xdata(), [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.get_ydata(), [0, 0.75, 1, 1])
    assert [*diagonal.get_xdata(), *diagonal.get_ydata()] == [0, 1, 0, 1]
    assert f"{sdegen.metrics.effective_share(torch.tensor([0.0, 3.0, 1.0]).double().log())}" in ax.get_title()


def test_bars_of_predictions_hold_so_many_of_the_draws_at_the_number_that_came():
    draws, observed = torch.randn(2000, 5, dtype=torch.float64), torch.arange(5).double()
    ax = plots.predictions(draws + observed, observed)
    for bars, inside in zip(ax.collections, (0.9, 0.5), strict=True):
        for (x, low), (same, high), column in zip(*np.array(bars.get_segments()).swapaxes(0, 1), (draws + observed).T):
            held = ((column >= low) & (column <= high)).double().mean()
            assert x == same and held.item() == pytest.approx(inside, abs=2e-3)
    assert [x for (x, _), _ in ax.collections[0].get_segments()] == observed.tolist()
    assert ax.get_title().startswith("CRPS")


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.weights(torch.full((3,), -torch.inf)), "all weights vanish"),
        (lambda: plots.predictions(torch.zeros(4, 3), torch.zeros(4)), "n and K at least 2"),
        (lambda: plots.replicates(torch.zeros(2), torch.zeros(4, 3), lambda x: x[:, 0]), r"give \(\*\) and \(n, \*\)"),
    ],
)
def test_figures_that_mean_nothing_are_not_drawn(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()
    assert not plt.get_fignums()


def test_bytes_are_refused_where_they_would_all_be_white():
    with pytest.raises(TypeError, match=r"x has dtype torch\.uint8; give numbers in \[0, 1\], of bytes x / 255"):
        plots.images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


def test_an_album_of_a_run_that_goes_on_draws_the_losses_before_too(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.training, "losses", lambda run, ax: drawn.append(list(run.loss)))
    x = torch.rand(64, 1, 4, 4)
    for steps in (3, 8):
        torch.manual_seed(0)
        model = sdegen.Model(sdegen.nets.UNet(1, (32,)), sdegen.VP())
        run = sdegen.fit(
            model, x, steps=steps, batch_size=8, seed=0, schedule=sdegen.training.constant_rate,
            callbacks=[plots.Album(tmp_path, every=4, n=1, steps=2)], checkpoint=tmp_path,
        )  # fmt: skip
    assert drawn == [run.loss[:4], run.loss]


# --- animations -------------------------------------------------------------------------------------------------------


def frames(file):
    with Image.open(file) as opened:
        shown = []
        for i in range(opened.n_frames):
            opened.seek(i)
            shown.append((np.asarray(opened.convert("L")), opened.info["duration"], opened.info.get("loop")))
    return shown


def test_an_animation_shows_every_state_of_images_in_its_place(tmp_path):
    path = torch.zeros(3, 2, 1, 4, 4)
    path[1, 0] = 0.5
    path[2, 1] = 1.0
    plots.animation(path, tmp_path / "new" / "a.gif", columns=2, frame=70, hold=900, size=8)
    shown = frames(tmp_path / "new" / "a.gif")
    assert [p.shape for p, _, _ in shown] == [(8, 16)] * 3  # every pixel twice in both directions
    means = [[p[:, :8].mean(), p[:, 8:].mean()] for p, _, _ in shown]
    np.testing.assert_allclose(means, [[0, 0], [127.5, 0], [0, 255]], atol=1)
    assert [d for _, d, _ in shown] == [70, 70, 900] and shown[0][2] == 0
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.gif"]


def test_an_animation_of_points_keeps_its_axes(tmp_path):
    path = torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]], [[0.5, -0.5]]]).expand(3, 50, 2)
    plots.animation(path, tmp_path / "a.gif", size=200)
    for (picture, _, _), (x, y) in zip(frames(tmp_path / "a.gif"), path[:, 0].tolist(), strict=True):
        dark = np.argwhere(picture[8:-8, 8:-8] < 200)  # inside the frame of the axes
        row, column = dark.mean(0) + 8 - 99.5
        assert 0 < len(dark) < 60
        np.testing.assert_allclose([column / 95, -row / 95], [x / 1.05, y / 1.05], atol=0.08)


@pytest.mark.parametrize(
    ("path", "titles", "says"),
    [
        (torch.zeros(2, 3, 3), None, r"shape \(2, 3, 3\); expected points"),
        (torch.zeros(0, 3, 2), None, "expected points"),
        (torch.full((2, 3, 2), torch.nan), None, "path holds NaN"),
        (torch.zeros(2, 3, 2), ["one"], "titles has 1 for 2 states"),
        (torch.zeros(2, 3, 1, 4, 4), ["a", "b"], "images have none"),
    ],
    ids=["shape", "empty", "nan", "titles", "titles of images"],
)
def test_an_animation_that_cannot_be_drawn_says_why(tmp_path, path, titles, says):
    with pytest.raises(ValueError, match=says):
        plots.animation(path, tmp_path / "a.gif", titles=titles)
    assert not list(tmp_path.iterdir())


def test_marginals_have_a_histogram_of_each_parameter_and_the_points_of_each_pair():
    theta = torch.randn(300, 3, dtype=torch.float64)
    figure = plots.marginals(theta, truth=torch.tensor([0.5, -1.0, 2.0]), names=["a", "b", "c"], bins=7, most=50)
    axes = np.array(figure.axes).reshape(3, 3)
    for i, j in np.ndindex(3, 3):
        shown = axes[i, j]
        if j > i:
            assert not shown.axison
        elif i == j:
            assert sum(bar.get_height() * bar.get_width() for bar in shown.patches) == pytest.approx(1.0)
        else:
            np.testing.assert_array_equal(shown.collections[0].get_offsets(), theta[:50][:, [j, i]].numpy())
        if j <= i:
            assert shown.lines[0].get_xdata()[0] == [0.5, -1.0, 2.0][j]
    assert [ax.get_xlabel() for ax in axes[-1]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"theta": torch.zeros(1, 2)}, "two at least"),
        ({"truth": torch.zeros(3)}, "truth"),
        ({"names": ["a"]}, "1 words"),
    ],
)
def test_draws_that_make_no_triangle_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        plots.marginals(**{"theta": torch.randn(9, 2), **change})
