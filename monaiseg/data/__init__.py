"""Data: grids, volumes, label tables, cases, list files and data tasks.

This package finds, reads and checks files and folders. It imports neither torch nor MONAI.
"""

from monaiseg.data.cases import (
    SPLITS,
    Case,
    FoundCases,
    case_id_of,
    find_cases,
    in_channel_order,
    prediction_name,
)
from monaiseg.data.conversion import converted_masks, with_orientation
from monaiseg.data.data_tasks import (
    CACHE_FOLDER,
    VOLUMES_FOLDER,
    DataTask,
    fresh_folder,
    kept_labels,
    preprocessing_of,
    read_data_task,
    write_data_task,
    write_lists,
)
from monaiseg.data.facts import (
    CaseFacts,
    ChannelFacts,
    Look,
    Progress,
    Refusal,
    check_duplicates,
    check_unchanged,
    examine_case,
    examine_cases,
    file_notes,
)
from monaiseg.data.grid import (
    MULTIPLE,
    Grid,
    Shape,
    Spacing,
    axis_rotation,
    check_same_grid,
    check_same_voxels,
    median_spacing,
    nearest_multiples,
    padded_shape,
    padded_up,
    resampled_shape,
)
from monaiseg.data.groups import (
    alike_note,
    check_apart,
    groups_note,
    read_groups,
    repeats_note,
    with_same_images,
)
from monaiseg.data.images import files_of, find_images, planned_outputs
from monaiseg.data.label_checks import absent_note, fitted_table, label_notes, scan_labels
from monaiseg.data.label_files import (
    FILE_NAMES,
    FORMATS,
    LabelFormat,
    label_table_text,
    load_label_table,
)
from monaiseg.data.labels import Label, LabelTable, index_dtype
from monaiseg.data.list_files import PATHS_FILE, read_list_file
from monaiseg.data.masks import OVERLAP_RULES, MaskedCase, OverlapRule, find_masked_cases
from monaiseg.data.nifti import file_sha256, is_volume_name, volume_stem
from monaiseg.data.pairing import check_ids
from monaiseg.data.phantoms import make_phantom, write_phantom, write_phantom_dataset
from monaiseg.data.resampling import resampling_doubt
from monaiseg.data.splits import choose_debug, split_cases
from monaiseg.data.volumes import (
    read_header,
    read_label_map,
    read_volume,
    write_image,
    write_label_map,
)

__all__ = [
    "CACHE_FOLDER",
    "FILE_NAMES",
    "FORMATS",
    "MULTIPLE",
    "OVERLAP_RULES",
    "PATHS_FILE",
    "SPLITS",
    "VOLUMES_FOLDER",
    "Case",
    "CaseFacts",
    "ChannelFacts",
    "DataTask",
    "FoundCases",
    "Grid",
    "Label",
    "LabelFormat",
    "LabelTable",
    "Look",
    "MaskedCase",
    "OverlapRule",
    "Progress",
    "Refusal",
    "Shape",
    "Spacing",
    "absent_note",
    "alike_note",
    "axis_rotation",
    "case_id_of",
    "check_apart",
    "check_duplicates",
    "check_ids",
    "check_same_grid",
    "check_same_voxels",
    "check_unchanged",
    "choose_debug",
    "converted_masks",
    "examine_case",
    "examine_cases",
    "file_notes",
    "file_sha256",
    "files_of",
    "find_cases",
    "find_images",
    "find_masked_cases",
    "fitted_table",
    "fresh_folder",
    "groups_note",
    "in_channel_order",
    "index_dtype",
    "is_volume_name",
    "kept_labels",
    "label_notes",
    "label_table_text",
    "load_label_table",
    "make_phantom",
    "median_spacing",
    "nearest_multiples",
    "padded_shape",
    "padded_up",
    "planned_outputs",
    "prediction_name",
    "preprocessing_of",
    "read_data_task",
    "read_groups",
    "read_header",
    "read_label_map",
    "read_list_file",
    "read_volume",
    "repeats_note",
    "resampled_shape",
    "resampling_doubt",
    "scan_labels",
    "split_cases",
    "volume_stem",
    "with_orientation",
    "with_same_images",
    "write_data_task",
    "write_image",
    "write_label_map",
    "write_lists",
    "write_phantom",
    "write_phantom_dataset",
]
