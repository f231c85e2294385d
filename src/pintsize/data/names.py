"""What loaders call the parts of a batch that is a dict."""

IMAGES = ("image", "images", "pixel_values", "img", "imgs", "input", "inputs", "x", "data")
"""What a network looks at, where `forward` calls it otherwise."""
MASKS = {"mask", "masks"}
TARGETS = MASKS | {
    "label", "labels", "target", "targets", "y", "annotation", "annotations", "class", "classes", "boxes",
    "bbox", "gt", "ground_truth", "segmentation", "segmentation_map", "segmentation_maps",
}  # fmt: skip
"""What it should say; `forward` may have an optional parameter of that name, for a loss."""
