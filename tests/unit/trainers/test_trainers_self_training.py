from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from data_loaders.samples import Batch
from networks.mit import DropPath
from tests.toy_self_trainers import (
    SIZE,
    SPACE,
    drawn_batches,
    forward,
    gradients,
    make_trainer,
    small_network,
    small_reference,
)
from tests.toy_training import copied_state
from trainers.self_training import SelfTrainingTrainer
from utils.class_spaces import IGNORE_LABEL

PLAIN = {"feature_distance_weight": 0.0}  # DACS
UNCHANGED = {"jitter_threshold": 1.0, "blur": False}  # no augmentation
MASKED = {"masked_consistency": 1.0}


def loss_names(trainer: SelfTrainingTrainer) -> set[str]:
    return {name.removeprefix("loss/") for name in forward(trainer).terms if name.startswith("loss/")}


def doubled(kind: str = "plus", **options: Any) -> SelfTrainingTrainer:
    return make_trainer(network=small_network(kind, double=True), **options)


def run(trainer: SelfTrainingTrainer, batches: Mapping[str, Batch] | None = None) -> dict[str, torch.Tensor]:
    """Gradients of one forward and backward."""
    forward(trainer, batches).loss.backward()
    return gradients(trainer)


def assert_close(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    """To rounding errors of float64, relative to each tensor's largest entry."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-10, atol=1e-10 * value.abs().max().item() + 1e-15, msg=name
        )


class TestParts:
    @pytest.mark.parametrize(
        ("network", "settings", "names"),
        [
            ("plus", {}, {"source", "mixed", "feature_distance"}),
            ("plus", MASKED, {"source", "mixed", "masked", "feature_distance"}),
            ("plus", PLAIN, {"source", "mixed"}),
            ("plus", {**PLAIN, "mix": "none"}, {"source", "mixed"}),
            ("mit", {}, {"source", "mixed", "feature_distance"}),
            ("two_head", PLAIN, {"source", "mixed", "source_aux", "mixed_aux"}),
        ],
    )
    def test_are_switched_one_by_one(self, network: str, settings: dict[str, Any], names: set[str]) -> None:
        assert loss_names(make_trainer(network=small_network(network), settings=settings)) == names

    def test_are_summed_with_their_weights(self) -> None:
        settings = {"masked_consistency": 2.0, "feature_distance_weight": 0.5, "lambda_seg": 0.25}
        settings |= {"pseudo_threshold": 0.3}
        output = forward(doubled("two_head", settings=settings))
        weights = {"source": 1, "mixed": 1, "masked": 2, "feature_distance": 0.5}
        weights |= {"source_aux": 0.25, "mixed_aux": 0.25, "masked_aux": 0.5}
        expected = sum(weight * output.terms[f"loss/{name}"] for name, weight in weights.items())
        assert all(output.terms[f"loss/{name}"] > 0 for name in weights)
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-12)

    def test_feature_distance_needs_no_reference_where_it_is_off(self) -> None:
        trainer = make_trainer(settings=PLAIN)
        assert trainer.reference is None
        assert "reference" not in trainer.method_modules()
        assert trainer.run_iteration(0, [drawn_batches()]) is False

    def test_feature_distance_is_that_of_the_things_of_the_source(self) -> None:
        terms = {
            classes: forward(make_trainer(settings={"feature_distance_classes": classes})).terms
            for classes in (SPACE.things, ())
        }
        assert terms[SPACE.things]["loss/feature_distance"] > 0
        assert terms[()]["loss/feature_distance"] == 0

    @pytest.mark.parametrize("kind", ["plus", "affine"])  # several backbone passes, and one
    def test_masked_consistency_leaves_the_other_terms_alone(self, kind: str) -> None:
        with_it, without = (forward(doubled(kind, settings=settings)).terms for settings in (MASKED, {}))
        assert with_it.keys() - without.keys() == {"loss/masked", "accuracy/masked"}
        for name, value in without.items():
            assert with_it[name].item() == pytest.approx(value.item(), rel=1e-12), name

    def test_masked_image_is_the_target_with_blocks_of_the_mean_colour(self) -> None:
        trainer = make_trainer(settings={**MASKED, **UNCHANGED})
        forward(trainer, unpadded())
        masked, target = (trainer.step.shown.images[name] for name in ("masked", "target"))
        kept = (masked == target).all(0)
        neutral = trainer.network.normalize.neutral_color()[0].expand_as(masked)
        assert 0 < kept.sum() < kept.numel()
        assert torch.equal(masked[:, ~kept], neutral[:, ~kept])
        blocks = kept.unfold(0, 16, 16).unfold(1, 16, 16).flatten(2).float().mean(2)
        assert set(blocks.flatten().tolist()) == {0.0, 1.0}


def unpadded() -> dict[str, Batch]:
    return {name: replace(batch, content=None) for name, batch in drawn_batches().items()}


class TestMixture:
    def test_is_source_of_half_of_the_classes_on_the_target(self) -> None:
        trainer = make_trainer(settings=UNCHANGED)
        batches = unpadded()
        forward(trainer, batches)
        shown = trainer.step.shown
        mask, source = shown.mask, batches["source"]
        assert torch.equal(shown.images["mixed"][:, mask], source.image[0][:, mask].float())
        assert torch.equal(shown.images["mixed"][:, ~mask], batches["target"].image[0][:, ~mask].float())
        assert torch.equal(shown.labels["mixed"][mask], source.label[0][mask])
        assert torch.equal(shown.labels["mixed"][~mask], shown.labels["pseudo"][~mask])
        pasted = set(source.label[0][mask].tolist())
        assert pasted
        assert pasted.isdisjoint(source.label[0][~mask].tolist())

    def test_draws_from_the_classes_of_the_whole_batch(self) -> None:
        """Each image shows two classes of its own: drawn from those, half of every image would be pasted."""
        source = drawn_batches(1)["source"]
        label = torch.arange(16, dtype=torch.uint8).view(8, 1, 2).repeat(1, *SIZE[:1], SIZE[1] // 2)
        batch = replace(source, label=label, draws=tuple(range(8)))
        mask = make_trainer().step.source_mask(batch)
        pasted = set(label[mask].tolist())
        assert set(mask.float().mean((1, 2)).tolist()) == {0.0, 0.5, 1.0}
        assert 0 < len(pasted) < 16

    def test_source_pixels_count_fully_and_others_by_the_ratio(self) -> None:
        trainer = make_trainer(settings={"ignore_top": 4, "ignore_bottom": 6})
        mixtures = []
        mixture_of = trainer.step._mixture
        trainer.step._mixture = lambda *arguments: mixtures.append(mixture_of(*arguments)) or mixtures[-1]
        ratio = forward(trainer).terms["pseudo/confident_share"].item()
        weight, mask = mixtures[0].weight, mixtures[0].mask
        assert 0 < ratio < 1
        assert (weight[mask] == 1).all()
        rest = torch.where(mask, torch.nan, weight)
        for rows, value in ((slice(0, 4), 0), (slice(4, -6), ratio), (slice(-6, None), 0)):
            part = rest[:, rows]
            assert part[~part.isnan()].unique().tolist() == pytest.approx([value])

    def test_none_trains_on_the_augmented_target(self) -> None:
        plain = make_trainer(settings={"mix": "none", **UNCHANGED})
        jittered = make_trainer(settings={"mix": "none", "jitter_threshold": 0.0, "blur": False})
        for trainer in (plain, jittered):
            forward(trainer, unpadded())
            assert not trainer.step.shown.mask.any()
            assert torch.equal(trainer.step.shown.labels["mixed"], trainer.step.shown.labels["pseudo"])
        target = drawn_batches()["target"].image[0].float()
        assert torch.equal(plain.step.shown.images["mixed"], target)
        assert not torch.equal(jittered.step.shown.images["mixed"], target)

    def test_is_augmented_by_iteration_and_draw_alone(self) -> None:
        def mixed(iteration: int, first: int = 0) -> torch.Tensor:
            trainer = make_trainer(settings={"mix": "none", "jitter_threshold": 0.0, "blur": False})
            batches = drawn_batches()
            batches["target"] = replace(batches["target"], draws=(first, first + 1))
            forward(trainer, batches, iteration)
            return trainer.step.shown.images["mixed"]

        assert torch.equal(mixed(0), mixed(1))
        assert not torch.equal(mixed(0), mixed(0, first=2))

    def test_padding_has_the_colour_that_normalises_to_zero(self) -> None:
        trainer = doubled(settings={"mix": "none", **UNCHANGED})
        content = torch.tensor([[24, 40], [32, 48]])
        batches = {name: replace(batch, content=content) for name, batch in drawn_batches().items()}
        forward(trainer, batches)
        shown = trainer.step.shown.images
        for name, domain in (("source", "source"), ("target", "target"), ("mixed", "target")):
            normalized = trainer.network.normalize(shown[name][None])
            assert shown[name].dtype == torch.float64
            assert normalized[:, :, 24:].abs().max() == normalized[:, :, :, 40:].abs().max() == 0
            inside = batches[domain].image[0, :, :24, :40].double()
            assert torch.equal(shown[name][:, :24, :40], inside)


class TestTeacher:
    def test_drops_nothing_but_normalises_with_the_batch(self) -> None:
        network = small_network("plus", drop_rate=0.5)
        trainer = make_trainer(network=network)
        trainer.set_mode(0)
        teacher = trainer.teacher.network
        for module in teacher.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                assert not module.training
            if isinstance(module, nn.BatchNorm2d):
                assert module.training
        assert all(module.training for module in network.modules())
        images = drawn_batches()["target"].image
        first, second = (trainer.step._taught(images).logits for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.allclose(first, teacher.eval()(images).logits, atol=1e-3)

    def test_keeps_all_paths_of_a_transformer(self) -> None:
        trainer = make_trainer(network=small_network("mit", drop_path_rate=0.5, drop_rate=0.5))
        trainer.set_mode(0)
        for network, training in ((trainer.teacher.network, False), (trainer.network, True)):
            paths = [module for module in network.modules() if isinstance(module, DropPath | nn.Dropout2d)]
            assert len(paths) == 8 + 1
            assert {module.training for module in paths} == {training}

    def test_gets_no_gradient_and_follows_the_student(self) -> None:
        trainer = doubled(settings={"learning_rate": 0.01})
        before = copied_state(trainer.network)
        trainer.run_iteration(0, [drawn_batches()])
        assert trainer.teacher.updates == 1
        after = copied_state(trainer.network)
        for name, value in trainer.teacher.network.named_parameters():
            assert not value.requires_grad
            assert value.grad is None
            torch.testing.assert_close(value.detach(), (before[name] + after[name]) / 2)

    def test_gathers_its_own_statistics_on_the_target(self) -> None:
        trainer = doubled()
        trainer.run_iteration(0, [drawn_batches()])
        own, student = (
            copied_state(network)["bn1.running_mean"]
            for network in (trainer.teacher.network, trainer.network)
        )
        assert not torch.equal(own, student)
        counter = "bn1.num_batches_tracked"
        assert trainer.teacher.network.state_dict()[counter] == 1  # the target
        assert trainer.network.state_dict()[counter] == 2  # source, mixture

    def test_augmentation_leaves_the_mixture_alone(self) -> None:
        shown = {}
        for choice in (False, True):
            settings = {"teacher_augmentation": choice, "jitter_threshold": 0.0}
            trainer = make_trainer(settings=settings)
            forward(trainer)
            shown[choice] = trainer.step.shown
        assert not torch.equal(shown[True].confidence, shown[False].confidence)
        for name, image in shown[False].images.items():
            assert torch.equal(shown[True].images[name], image), name

    def test_labels_come_from_the_images_alone(self) -> None:
        batches = drawn_batches()
        trap = torch.full((2, *SIZE), 3, dtype=torch.uint8)
        trapped = {**batches, "target": replace(batches["target"], label=trap)}
        ours, theirs = (forward(make_trainer(settings=MASKED), b).terms for b in (trapped, batches))
        assert batches["target"].label is None
        assert {name: value.item() for name, value in ours.items()} == {
            name: value.item() for name, value in theirs.items()
        }

    def test_is_required(self) -> None:
        with pytest.raises(AssertionError, match="needs a teacher"):
            make_trainer(loop={"ema_decay": 0.0})


class TestPasses:
    @pytest.mark.parametrize("kind", ["affine", "mit"])
    def test_one_backbone_pass_gives_the_gradients_of_several(self, kind: str) -> None:
        found = []
        for joint in (True, False):
            trainer = doubled(kind, settings=MASKED)
            assert trainer.step.joint
            trainer.step.joint = joint
            calls = []
            encode = trainer.step._encode
            trainer.step._encode = lambda images, encode=encode, calls=calls: (
                calls.append(1) or encode(images)
            )
            found.append(run(trainer))
            assert len(calls) == (1 if joint else 3)
        assert_close(*found)
        assert all(value.abs().max() > 0 for value in found[0].values())

    def test_domains_stay_apart_under_batch_statistics(self) -> None:
        assert not make_trainer().step.joint
        assert make_trainer(loop={"batch_norm": "frozen"}).step.joint

    def test_only_the_student_is_optimized(self) -> None:
        trainer = make_trainer()
        optimized = {id(value) for value in trainer.steps[0].parameters()}
        student = {id(value) for value in trainer.network.parameters()}
        assert optimized == {id(value) for value in trainer.network.parameters() if value.requires_grad}
        assert {id(value) for value in trainer.step.parameters()} == student  # what data parallelism sees

    def test_accumulated_micro_batches_give_the_mean_gradient(self) -> None:
        micro = [drawn_batches(2, first) for first in (0, 2)]
        separate = [run(doubled("affine"), batches) for batches in micro]
        trainer = doubled("affine", settings={"learning_rate": 0.0})
        trainer.run_iteration(0, micro)
        mean = {name: (separate[0][name] + separate[1][name]) / 2 for name in separate[0]}
        assert_close(gradients(trainer), mean)


def all_ignored(batches: Mapping[str, Batch]) -> dict[str, Batch]:
    source = batches["source"]
    return {**batches, "source": replace(source, label=torch.full_like(source.label, IGNORE_LABEL))}


def one_class(batches: Mapping[str, Batch]) -> dict[str, Batch]:
    source = batches["source"]
    return {**batches, "source": replace(source, label=torch.full_like(source.label, 13))}


def black(batches: Mapping[str, Batch]) -> dict[str, Batch]:
    return {name: replace(batch, image=torch.zeros_like(batch.image)) for name, batch in batches.items()}


@pytest.mark.parametrize("method", ["daformer", "dida"])
class TestExtremes:
    """Losses and gradients are finite, whatever comes."""

    def check(self, trainer: SelfTrainingTrainer, batches: Mapping[str, Batch]) -> dict[str, float]:
        output = forward(trainer, batches)
        output.loss.backward()
        assert all(torch.isfinite(value) for value in output.terms.values()), output.terms
        assert torch.isfinite(output.loss)
        for name, gradient in gradients(trainer).items():
            assert torch.isfinite(gradient).all(), name
        return {name: value.item() for name, value in output.terms.items()}

    @pytest.mark.parametrize("change", [all_ignored, one_class, black])
    @pytest.mark.parametrize("kind", ["plus", "mit"])
    def test_labels_and_images(self, method: str, kind: str, change: Any) -> None:
        terms = self.check(
            make_trainer(method, network=small_network(kind), settings=MASKED), change(drawn_batches())
        )
        if change is all_ignored:
            assert terms["loss/source"] == terms["loss/feature_distance"] == 0
        if change is one_class:
            assert terms["loss/mixed"] == pytest.approx(terms["loss/source"], rel=0.5)  # all of it is pasted

    @pytest.mark.parametrize("settings", [{"pseudo_threshold": 1.0}, {"ignore_top": 20, "ignore_bottom": 20}])
    def test_no_pseudo_label_counts(self, method: str, settings: dict[str, Any]) -> None:
        settings = {**settings, **MASKED, "mix": "none"}
        terms = self.check(make_trainer(method, settings=settings), drawn_batches())
        assert terms["loss/mixed"] == terms["loss/masked"] == 0

    def test_ignored_rows_may_exceed_the_crop(self, method: str) -> None:
        settings = {"ignore_top": 1000, "ignore_bottom": 1000}
        self.check(make_trainer(method, settings=settings), drawn_batches())

    @pytest.mark.parametrize("kind", ["plus", "affine", "mit"])
    def test_all_weights_are_zero(self, method: str, kind: str) -> None:
        network = small_network(kind)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        self.check(make_trainer(method, network=network, settings=MASKED), drawn_batches())

    def test_reference_is_the_student_itself(self, method: str) -> None:
        network = small_network("affine")
        same = small_reference(network)
        for name, value in same.network.state_dict().items():
            value.copy_(network.state_dict()[name])
        self.check(make_trainer(method, network=network, reference=same), drawn_batches())
