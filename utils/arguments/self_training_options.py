"""Options of online self-training: mixing, pseudo labels, teacher, and the losses beside cross entropy."""

from __future__ import annotations

import argparse

from utils.arguments import values
from utils.arguments.data_options import add_bad_image_argument, add_reading_arguments
from utils.arguments.parser import Parser


def add_self_training_arguments(parser: Parser) -> None:
    """What `train_st.py` has beside the options of every training."""
    _add_method_arguments(parser)
    _add_teacher_arguments(parser)
    _add_mixing_arguments(parser)
    _add_feature_distance_arguments(parser)
    _add_masked_arguments(parser)
    _add_instance_arguments(parser)


def add_aspect_crop_arguments(parser: Parser, *, target: bool = True) -> None:
    """Loading: images keep their proportions; crops, mirroring, and which source images are drawn.

    Args:
        parser: gets the options.
        target: whether target images are read too; without them rare class sampling is on by default.
    """
    add_reading_arguments(parser, **({} if target else {"classes_of": "the snapshot's"}))
    add_bad_image_argument(parser)
    add = parser.add_argument_group("augmentation").add_argument
    add(
        "--crop-size",
        type=values.size_wh,
        default="512,512",
        metavar="W,H",
        help="width,height in pixels of the training crops; single images that are smaller are padded",
    )
    add(
        "--crop-largest-share",
        type=values.fraction,
        default=0.75,
        metavar="P",
        help="a source crop is drawn again while one class has at least this share of its labelled pixels; "
        "0: never",
    )
    add(
        "--crop-attempts",
        type=values.positive_int,
        default=11,
        metavar="N",
        help="crops to try until one is varied enough; the last one is taken as it is",
    )
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mirror half of the source images",
    )
    if target:
        add(
            "--random-mirror",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="mirror half of the target images",
        )
    _add_rare_class_arguments(parser, target=target)


def _add_rare_class_arguments(parser: Parser, *, target: bool) -> None:
    add = parser.add_argument_group("rare class sampling").add_argument
    add(
        "--rare-class-sampling",
        action=argparse.BooleanOptionalAction,
        default=None if target else True,
        help="draw a class first, rare ones more often, then a source image that shows it"
        + (" (default: on, with --method dacs off)" if target else ""),
    )
    add(
        "--rare-class-temperature",
        type=values.positive_float,
        default=0.01,
        metavar="T",
        help="of the softmax over 1 - frequency; smaller prefers rare classes more",
    )
    add(
        "--rare-class-min-pixels",
        type=values.non_negative_int,
        default=3000,
        metavar="N",
        help="an image shows a class if it has more than so many pixels of it, at its own size",
    )
    add(
        "--rare-class-min-crop-share",
        type=values.fraction,
        default=0.5,
        metavar="P",
        help="the crop is drawn again until it has more than this share of --rare-class-min-pixels",
    )
    add(
        "--class-statistics",
        type=values.existing_path,
        metavar="PATH",
        help="sample_class_stats.json, or the folder that prepare_data.py statistics wrote (default: found "
        "in the source's folder)",
    )


def _add_method_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("self-training").add_argument
    add(
        "--method",
        choices=("daformer", "dida", "dacs"),
        default="daformer",
        help="dida: daformer with the instance loss; dacs: daformer without feature distance, rare class "
        "sampling and ignored rows, and with --ema-decay 0.99 in place of 0.999",
    )
    add(
        "--lambda-seg",
        type=values.non_negative_float,
        default=0.1,
        metavar="W",
        help="weight of every cross entropy of the auxiliary head in --network deeplab_two_head; the others "
        "have one head",
    )
    add(
        "--restore-weights",
        choices=("student", "teacher"),
        default="student",
        help="which network of the --restore-from file the training starts from",
    )


def _add_teacher_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("teacher and pseudo labels").add_argument
    add(
        "--teacher-buffers",
        choices=("own", "copied"),
        default="own",
        help="BatchNorm statistics of the teacher: gathered on target batches, or the student's",
    )
    add(
        "--teacher-augmentation",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="the teacher labels a jittered and blurred copy of the target image",
    )
    add(
        "--pseudo-threshold",
        type=values.fraction,
        default=0.968,
        metavar="P",
        help="every pseudo-labelled pixel has as weight the share of pixels, in the global batch, whose "
        "confidence is at least this",
    )
    add(
        "--ignore-top",
        type=values.non_negative_int,
        default=None,
        metavar="ROWS",
        help="rows at the top of a target crop whose pseudo labels have no weight (default: 15, with "
        "--method dacs 0)",
    )
    add(
        "--ignore-bottom",
        type=values.non_negative_int,
        default=None,
        metavar="ROWS",
        help="rows at the bottom, such as the own vehicle's bonnet (default: 120, with --method dacs 0)",
    )


def _add_mixing_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("mixing and strong augmentation").add_argument
    add(
        "--mix",
        choices=("class", "none"),
        default="class",
        help="class: source pixels of half of the classes are pasted onto the target (ClassMix); none: the "
        "augmented target alone",
    )
    add(
        "--jitter-strength",
        type=values.at_most_half,
        default=0.2,
        metavar="S",
        help="of brightness, contrast, saturation and hue of the mixed image, 0 to 0.5",
    )
    add(
        "--jitter-threshold",
        type=values.fraction,
        default=0.2,
        metavar="P",
        help="colours are jittered in 1 - P of the iterations, as in the original; 1: never",
    )
    add(
        "--blur",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="blur the mixed image in half of the iterations",
    )


def _add_feature_distance_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("feature distance to the ImageNet backbone").add_argument
    add(
        "--feature-distance-weight",
        type=values.non_negative_float,
        default=None,
        metavar="W",
        help="weight of the distance, on things of the source, between the last stages of the student and of "
        "--backbone-weights; 0: off (default: 0.005, with --method dacs 0)",
    )
    add(
        "--feature-distance-classes",
        default=None,
        metavar="NAME,NAME,...",
        help="classes where it is measured, by name or id (default: the things among --classes)",
    )
    add(
        "--feature-distance-min-share",
        type=values.fraction,
        default=0.75,
        metavar="P",
        help="share of a feature's image pixels that its class must have",
    )


def _add_masked_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("masked image consistency (MIC)").add_argument
    add(
        "--masked-consistency",
        type=values.non_negative_float,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="W",
        help="weight of the cross entropy between teacher labels and the student on a target image with "
        "blanked blocks; the bare flag means 1",
    )
    add(
        "--mask-block",
        type=values.positive_int,
        default=64,
        metavar="PIXELS",
        help="side of the blocks",
    )
    add(
        "--mask-ratio",
        type=values.decay,
        default=0.7,
        metavar="P",
        help="share of the blocks that are blanked, below 1",
    )


def _add_instance_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("instance bank and loss (dida)").add_argument
    add(
        "--instance-bank",
        metavar="PATH|fill",
        help="folder with the published f_buffer_s.npz and l_buffer_s.npz, or what fill_bank.py "
        "wrote; fill: made from the student after --bank-fill-at iterations",
    )
    add(
        "--bank-size",
        type=values.positive_int,
        default=300,
        metavar="K",
        help="entries of a bank that is filled here",
    )
    add(
        "--bank-fill-at",
        type=values.non_negative_int,
        default=None,
        metavar="N",
        help="iterations before --instance-bank fill; until then there is no instance loss (default: "
        "--warm-up)",
    )
    add(
        "--instance-weight",
        type=values.non_negative_float,
        default=0.5,
        metavar="W",
        help="weight of the instance loss; 0: off",
    )
    add(
        "--calibrate",
        choices=("student", "teacher", "none"),
        default="student",
        help="class scores that weigh the teacher's similarities: the student's logits on the mixed image, "
        "as in the release; the teacher's probabilities on the target, as in the paper; or nothing",
    )
    add(
        "--smooth",
        type=values.fraction,
        default=1.0,
        metavar="A",
        help="below 1, the similarities to the bank, summed by class and times 1 - A, are added to the "
        "probabilities that pseudo labels are chosen by; 0.9 is usual",
    )
    add(
        "--bank-update-every",
        type=values.positive_int,
        default=50,
        metavar="N",
        help="iterations between updates of the bank",
    )
    add(
        "--bank-momentum",
        type=values.fraction,
        default=0.999,
        metavar="M",
        help="share of an entry that an update keeps",
    )
    add(
        "--bank-labels",
        choices=("batch", "own"),
        default=None,
        help="class means of the first image are taken at the label positions of all images of the batch, or "
        "at its own (default: batch as published, own with --quirks fixed)",
    )
    add(
        "--bank-absent",
        choices=("decay", "keep"),
        default=None,
        help="entries of classes that a batch lacks shrink towards 0, or stay (default: decay as published; "
        "keep with --quirks fixed)",
    )
