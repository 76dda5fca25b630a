"""Command-line arguments: one option per setting, named alike everywhere, and one place for checks.

parser = make_parser(__doc__)
add_run_arguments(parser)
add_optimizer_arguments(parser)
args = parse(parser, argv)
"""

from utils.arguments.active_options import add_active_arguments
from utils.arguments.checks import (
    FREE_TO_CHANGE,
    USED_AT_START,
    as_settings,
    batch_line,
    check_arguments,
    check_batch,
    check_num_classes,
    free_to_change,
    settings_digest,
)
from utils.arguments.command_line import parse
from utils.arguments.common_options import (
    add_batch_norm_arguments,
    add_distributed_arguments,
    add_precision_arguments,
    add_run_arguments,
)
from utils.arguments.data_options import (
    add_data_arguments,
    add_evaluation_arguments,
    add_labelled_size_argument,
    add_labelling_arguments,
    add_protocol_arguments,
    add_pseudo_label_arguments,
    add_reading_arguments,
    add_source_arguments,
    add_source_order_arguments,
    add_target_arguments,
)
from utils.arguments.parser import Parser, make_parser, warn
from utils.arguments.self_training_checks import warn_about_switched_off
from utils.arguments.self_training_options import add_aspect_crop_arguments, add_self_training_arguments
from utils.arguments.training_options import (
    add_memory_arguments,
    add_network_arguments,
    add_optimizer_arguments,
    add_segmentation_loss_arguments,
    add_training_arguments,
)
from utils.arguments.values import (
    boolean_word,
    decay,
    existing_file,
    existing_folder,
    existing_path,
    folder,
    fraction,
    non_negative_float,
    non_negative_int,
    percentile,
    positive_float,
    positive_int,
    scale_range,
    size_wh,
)

__all__ = [
    "FREE_TO_CHANGE",
    "USED_AT_START",
    "Parser",
    "add_active_arguments",
    "add_aspect_crop_arguments",
    "add_batch_norm_arguments",
    "add_data_arguments",
    "add_distributed_arguments",
    "add_evaluation_arguments",
    "add_labelled_size_argument",
    "add_labelling_arguments",
    "add_memory_arguments",
    "add_network_arguments",
    "add_optimizer_arguments",
    "add_precision_arguments",
    "add_protocol_arguments",
    "add_pseudo_label_arguments",
    "add_reading_arguments",
    "add_run_arguments",
    "add_segmentation_loss_arguments",
    "add_self_training_arguments",
    "add_source_arguments",
    "add_source_order_arguments",
    "add_target_arguments",
    "add_training_arguments",
    "as_settings",
    "batch_line",
    "boolean_word",
    "check_arguments",
    "check_batch",
    "check_num_classes",
    "decay",
    "existing_file",
    "existing_folder",
    "existing_path",
    "folder",
    "fraction",
    "free_to_change",
    "make_parser",
    "non_negative_float",
    "non_negative_int",
    "parse",
    "percentile",
    "positive_float",
    "positive_int",
    "scale_range",
    "settings_digest",
    "size_wh",
    "warn",
    "warn_about_switched_off",
]
