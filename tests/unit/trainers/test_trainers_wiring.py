"""From arguments to the parts of a trainer."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

import train_ft
import train_ms
import train_source
import train_st
from tests.official_formats import mit_imagenet_files, write_cityscapes, write_gta5
from tests.toy_self_training import mit_entries
from tests.toy_training import WORLD
from trainers import wiring, wiring_data
from trainers.label_checks import PseudoLabels
from trainers.labelling import MANIFEST, default_pseudo_label_folder, weights_digest
from trainers.memory import MemorySettings
from trainers.supervised import SupervisedSettings
from utils.class_spaces import class_space
from utils.errors import UserError
from utils.precision import Precision
from utils.snapshots import FORMAT_VERSION, save

SIZE = (64, 48)
SMALL = [
    *("--backbone", "resnet18_quarter", "--head-channels", "8", "--bottleneck-channels", "8"),
    *("--input-size", "64,48", "--input-size-target", "64,48", "--crop-size", "48,32"),
    *("--batch-size", "2", "--num-workers", "0", "--device", "cpu"),
]
SPACE = class_space("cityscapes19")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source with labels, target without, one labelled target image to measure on."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 3, SIZE)
    write_cityscapes(root, 2, SIZE, labelled=False)
    write_cityscapes(root, 1, SIZE, split="val")
    return root


def stage_one(*words: object) -> argparse.Namespace:
    return train_ms.parse_args([*SMALL, "--backbone-weights", "none", *map(str, words)])


def stage_two(*words: object) -> argparse.Namespace:
    return train_ft.parse_args([*SMALL, *map(str, words)])


class TestSettings:
    def test_options_fill_the_settings_of_the_same_names(self) -> None:
        args = stage_one(
            *("--learning-rate", 0.02, "--learning-rate-D", 0.03, "--lambda-kl-target", 0.4, "--warm-up", 7),
            *("--target-terms-start", 9, "--only-hard-label", 80, "--class-balance", "--max-value", 7),
            *("--quirks", "fixed", "--max-grad-norm", 5, "--optimizer", "adamw", "--unweighted-terms"),
        )
        settings = wiring.method_settings(MemorySettings, args)
        assert settings == MemorySettings(
            learning_rate=0.02,
            learning_rate_discriminator=0.03,
            lambda_kl_target=0.4,
            warm_up=7,
            target_terms_start=9,
            only_hard_label=80,
            class_balance=True,
            max_value=7,
            quirks="fixed",
            max_grad_norm=5,
            optimizer="adamw",
            unweighted_terms=True,
        )

    def test_defaults_of_the_options_are_those_of_the_settings(self) -> None:
        supervised = train_source.parse_args([*SMALL, "--backbone-weights", "none"])
        assert wiring.method_settings(SupervisedSettings, supervised) == SupervisedSettings()
        assert wiring.method_settings(MemorySettings, stage_one()) == MemorySettings()

    def test_loop_takes_its_rhythm_from_the_options(self) -> None:
        args = stage_one(
            *("--num-steps-stop", 50, "--accumulation", 2, "--save-every", 9, "--log-every", 3),
            *("--evaluate-every", 4, "--pictures-every", 5, "--batch-norm", "sync", "--train-bn"),
            *("--ema-decay", 0.9, "--seed", 3),
        )
        loop = wiring.loop_settings(args, Precision("fp32"))
        assert (loop.num_steps_stop, loop.accumulation, loop.save_every, loop.log_every) == (50, 2, 9, 3)
        assert (loop.evaluate_every, loop.pictures_every, loop.ema_decay, loop.seed) == (4, 5, 0.9, 3)
        assert (loop.batch_norm, loop.train_batch_norm_affine) == ("sync", True)


class TestData:
    def test_domains_are_found_and_the_target_has_no_labels(self, data: Path) -> None:
        found = wiring_data.find_domains(stage_one("--data-root", data), source=True, target=True)
        assert found.space == SPACE
        assert [len(files.items) for files in (found.source, found.target, found.evaluation)] == [3, 2, 1]
        assert all(item.label is None for item in found.target.items)
        assert all(item.label is not None for item in found.source.items)

    def test_target_without_measured_labels_is_no_error_unless_they_are_asked_for(
        self, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_cityscapes(tmp_path, 2, SIZE, labelled=False)
        with caplog.at_level(logging.INFO):
            args = stage_one("--data-root", tmp_path, "--source-root", data / "gta5")
            assert wiring_data.find_domains(args, source=True, target=True).evaluation is None
        assert "no evaluation during training" in caplog.text
        with pytest.raises(UserError, match="val"):
            wiring_data.find_domains(
                stage_one("--data-root", tmp_path, "--evaluate-every", 5), source=False, target=True
            )

    def test_incomplete_measured_labels_are_an_error_and_not_a_reason_to_train_without(
        self, data: Path, tmp_path: Path
    ) -> None:
        write_cityscapes(tmp_path, 2, SIZE, split="val")
        sorted((tmp_path / "cityscapes" / "gtFine").rglob("*labelIds.png"))[0].unlink()
        args = stage_one("--data-root", tmp_path, "--source-root", data / "gta5")
        with pytest.raises(UserError, match=r"1 of 2 .*at most 0\.5% may be"):
            wiring_data.find_domains(args, source=True, target=False)

    def test_target_description_without_the_measured_split_is_no_error(
        self, data: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        args = stage_one("--data-root", data)
        args.evaluation_split = "held_out"
        with caplog.at_level(logging.INFO):
            assert wiring_data.find_domains(args, source=False, target=True).evaluation is None
        assert "cityscapes has no split 'held_out'" in caplog.text

    def test_streams_tell_images_and_pseudo_labels_apart_but_not_folders(
        self, data: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(data / "cityscapes", tmp_path / "moved")
        prints = []
        for root, labels in (
            (data / "cityscapes", "a"),
            (tmp_path / "moved", "a"),
            (data / "cityscapes", "b"),
        ):
            args = stage_one("--data-root", data, "--target-root", root)
            domains = wiring_data.find_domains(args, source=True, target=True)
            datasets = {
                "source": wiring_data.labelled_dataset(args, domains.source, domains.space),
                "target": wiring_data.target_dataset(args, domains.target),
            }
            made = {"target": PseudoLabels(tmp_path, None, labels)}
            streams = wiring_data.sample_streams(args, WORLD, datasets, pseudo_labels=made)
            prints.append([streams[name].fingerprint for name in ("source", "target")])
        assert str(tmp_path) in streams["target"].description
        assert prints[0] == prints[1]
        assert prints[0][0] == prints[2][0]
        assert prints[0][1] != prints[2][1]

    def test_streams_give_crops_of_both_domains_with_labels_of_the_source_alone(self, data: Path) -> None:
        args = stage_one("--data-root", data)
        domains = wiring_data.find_domains(args, source=True, target=True)
        datasets = {
            "source": wiring_data.labelled_dataset(args, domains.source, domains.space),
            "target": wiring_data.target_dataset(args, domains.target),
        }
        streams = wiring_data.sample_streams(args, WORLD, datasets)
        source, target = streams["source"].next(), streams["target"].next()
        assert tuple(source.image.shape) == tuple(target.image.shape) == (2, 3, 32, 48)
        assert tuple(source.label.shape) == (2, 32, 48)
        assert target.label is None
        known = source.label[source.label != 255]
        assert int(known.max()) < 19

    def test_evaluator_gives_plain_numbers(self, data: Path) -> None:
        args = stage_one("--data-root", data)
        domains = wiring_data.find_domains(args, source=False, target=False)
        network = wiring.build_network(args, domains.space, WORLD)
        scores = wiring.make_evaluator(args, domains, WORLD, Precision("fp32"))(network)
        assert 0 <= scores["val/miou"] <= 100
        assert all(isinstance(value, float) for value in scores.values())

    def test_evaluator_loads_with_the_workers_that_were_asked_for(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        monkeypatch.setattr(wiring, "evaluate", lambda *given, **named: asked.append(named["num_workers"]))
        args = stage_one("--data-root", data, "--num-workers", 3)
        domains = wiring_data.find_domains(args, source=False, target=False)
        network = wiring.build_network(args, domains.space, WORLD)
        assert wiring.make_evaluator(args, domains, WORLD, Precision("fp32"))(network) is None
        assert asked == [3]


class TestNetwork:
    def test_options_shape_the_network(self) -> None:
        words = ("--norm-style", "gn", "--use-se", "--droprate", 0.3)
        spec = wiring.build_network(stage_one(*words), SPACE, WORLD).spec
        assert (spec.architecture, spec.backbone, spec.num_classes) == (
            "deeplab_two_head",
            "resnet18_quarter",
            19,
        )
        chosen = {name: spec.options[name] for name in ("norm_style", "use_se", "drop_rate", "head_channels")}
        assert chosen == {"norm_style": "gn", "use_se": True, "drop_rate": 0.3, "head_channels": 8}

    def test_options_that_the_architecture_does_not_know_are_warned_about(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        words = ("--network", "deeplab_oracle", "--norm-style", "gn", "--droprate", 0.3, "--lambda-seg", 0.5)
        args = train_source.parse_args([*SMALL, "--backbone-weights", "none", *map(str, words)])
        caplog.clear()
        wiring.build_network(args, SPACE, WORLD)
        for option in ("--norm-style", "--droprate", "--head-channels", "--lambda-seg"):
            assert f"{option} has no effect: --network deeplab_oracle" in caplog.text
        assert "--use-se" not in caplog.text
        assert "--output-stride" not in caplog.text

    def test_snapshot_fills_the_whole_network(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        first = wiring.build_network(stage_one(), SPACE, WORLD)
        state = {"format_version": FORMAT_VERSION, "iteration": 5, "network": first.spec.to_dict()}
        save(tmp_path / "a.pth", {**state, "weights": first.state_dict(), "teacher": None, "evaluation": {}})
        torch.manual_seed(1)
        args = train_ms.parse_args([*SMALL, "--restore-from", str(tmp_path / "a.pth")])
        second = wiring.build_network(args, SPACE, WORLD)
        for name, value in first.state_dict().items():
            assert torch.equal(second.state_dict()[name], value), name

    def test_a_file_of_imagenet_weights_leaves_other_starts_without_effect(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        torch.save(mit_imagenet_files(mit_entries("mit_b0"))["nvlabs"], tmp_path / "mit.pth")
        words = ["--backbone", "mit_b0", "--head-channels", "8", "--restore-from", str(tmp_path / "mit.pth")]
        for further, named in (
            ([], []),
            (["--backbone-weights", "b.pth", "--restore-weights", "teacher"], ["backbone", "restore"]),
        ):
            args = train_st.parse_args([*words, *further])
            caplog.clear()
            wiring.build_network(args, SPACE, WORLD)
            said = [line for line in caplog.messages if "no effect" in line]
            assert len(said) == len(named)
            for line, name in zip(said, named, strict=True):
                assert f"--{name}-weights has no effect: --restore-from {tmp_path / 'mit.pth'} holds" in line

    def test_crop_that_a_mix_transformer_cannot_see_is_refused(self) -> None:
        args = train_st.parse_args(
            [
                *("--backbone", "mit_b0", "--backbone-weights", "b.pth", "--crop-size", "64,28"),
                *("--ignore-top", "0", "--ignore-bottom", "0"),
            ]
        )
        with pytest.raises(UserError, match=r"--crop-size 64,28 is too small .* 29x29; give a larger"):
            wiring.build_network(args, SPACE, WORLD)
        wiring.check_crop_of_backbone(args, "resnet101")
        args.crop_size = (29, 29)
        wiring.check_crop_of_backbone(args, "mit_b0")

    def test_activation_checkpointing_is_switched_on(self) -> None:
        assert wiring.build_network(
            stage_one("--activation-checkpointing"), SPACE, WORLD
        ).activation_checkpointing


class TestStageTwo:
    @pytest.mark.parametrize(
        ("words", "needed"),
        [
            ((), True),
            (("--quirks", "fixed"), False),
            (("--batch-norm", "frozen"), False),
            (("--quirks", "fixed", "--lambda-kl-target", "0.1"), True),
            (("--batch-norm", "frozen", "--lambda-adv-target1", "0.1"), True),
        ],
    )
    def test_reads_plain_target_images_only_where_they_have_an_effect(
        self, tmp_path: Path, words: tuple[str, ...], needed: bool
    ) -> None:
        start = ("--restore-from", tmp_path, "--lambda-adv-target1", 0, "--lambda-adv-target2", 0)
        args = stage_two(*start, *words)
        settings = wiring.method_settings(MemorySettings, args)
        assert wiring_data.stage_two_needs_target(args, settings) is needed

    def test_the_only_set_of_labels_beside_the_snapshot_is_taken(self, data: Path, tmp_path: Path) -> None:
        args = stage_two("--restore-from", tmp_path, "--data-root", data)
        domains = wiring_data.find_domains(args, source=False, target=True)
        folder = tmp_path / "pseudo_labels" / "cityscapes_train_t0.90"
        self._write_labels(folder, domains)
        assert wiring_data.find_pseudo_labels(args, domains).folder == folder
        self._write_labels(folder.with_name("cityscapes_train"), domains)
        with pytest.raises(UserError, match="choose one by --pseudo-label-dir"):
            wiring_data.find_pseudo_labels(args, domains)

    def test_without_a_snapshot_the_folder_must_be_named(self, data: Path) -> None:
        args = stage_two("--backbone-weights", "none", "--data-root", data)
        domains = wiring_data.find_domains(args, source=False, target=True)
        with pytest.raises(UserError, match=r"--restore-from .* or --pseudo-label-dir"):
            wiring_data.find_pseudo_labels(args, domains)

    def test_threshold_chooses_among_several_sets(self, data: Path, tmp_path: Path) -> None:
        args = stage_two("--restore-from", tmp_path, "--data-root", data, "--threshold", 0.9)
        domains = wiring_data.find_domains(args, source=False, target=True)
        folder = default_pseudo_label_folder(tmp_path, "cityscapes", "train", 0.9)
        for chosen in (folder, folder.with_name("cityscapes_train")):
            self._write_labels(chosen, domains)
        assert wiring_data.find_pseudo_labels(args, domains).folder == folder

    def test_labels_found_by_themselves_must_be_made_by_the_network_that_is_trained_on(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = wiring.build_network(stage_one(), SPACE, WORLD)
        made = {"weights_sha256": weights_digest(network), "snapshot": "runs/ms/a.pth", "iteration": 5}
        labels = PseudoLabels(tmp_path, made, "")
        args = stage_two("--restore-from", tmp_path)
        wiring.check_label_origin(args, labels, network)
        with torch.no_grad():
            next(network.parameters()).add_(1)
        with pytest.raises(UserError, match=r"but by runs/ms/a.pth \(iteration 5\)"):
            wiring.check_label_origin(args, labels, network)
        named = stage_two("--restore-from", tmp_path, "--pseudo-label-dir", tmp_path)
        wiring.check_label_origin(named, labels, network)
        assert "but by runs/ms/a.pth (iteration 5)" in caplog.text

    @staticmethod
    def _write_labels(folder: Path, domains: wiring_data.Domains) -> None:
        """Label maps without a manifest, as other programs write them."""
        from data_loaders.decoding import write_label_png

        for item in domains.target.items:
            path = folder / item.name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_label_png(path, torch.zeros(SIZE[::-1], dtype=torch.uint8).numpy())
        assert not (folder / MANIFEST).exists()


def test_start_records_what_the_arguments_came_to(data: Path, tmp_path: Path) -> None:
    args = stage_two(
        *("--backbone-weights", "none", "--data-root", data, "--pseudo-label-dir", tmp_path / "labels"),
        *("--snapshot-dir", tmp_path / "run", "--no-tensorboard", "--precision", "auto"),
    )
    wiring.prepare_process(args, WORLD)
    domains = wiring_data.find_domains(args, source=False, target=True)
    TestStageTwo._write_labels(tmp_path / "labels", domains)
    labels = wiring_data.find_pseudo_labels(args, domains)
    facts = wiring.facts_in_force(args, WORLD, domains, Precision("fp32"), labels)
    with wiring.run_folder(args, WORLD, facts):
        pass
    stored = json.loads((tmp_path / "run" / "arguments.json").read_text())["starts"][0]["facts"]
    assert stored["batch"] == "global batch 2 = 1 process x 2 x 1"
    assert stored["precision"] == "fp32"
    assert stored["pseudo_labels"]["folder"] == str(tmp_path / "labels")
    assert stored["files"]["target"]["images"] == 2
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "target: 2 images of cityscapes train" in log
    assert f"pseudo labels: {tmp_path / 'labels'} (of unknown origin)" in log


def test_run_folder_records_the_arguments_and_seeds_dropout(tmp_path: Path) -> None:
    args = stage_one("--snapshot-dir", tmp_path / "run", "--no-tensorboard", "--seed", 5)
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        with wiring.run_folder(args, WORLD) as run:
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    torch.manual_seed(0)
    assert not torch.equal(torch.rand(3), draws[0])
    stored = json.loads((tmp_path / "run" / "arguments.json").read_text())["arguments"]
    assert stored["seed"] == 5
    assert stored["script"] == "train_ms.py"
    assert run.settings["crop_size"] == [48, 32]
