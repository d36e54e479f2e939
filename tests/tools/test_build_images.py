"""What is refused before anything is built."""

import pytest

from tools import build_images


@pytest.mark.parametrize("names", [[], ["trainer"], ["inference", "trainer"]])
def test_vllm_is_a_variant_of_the_inference_image_alone(names):
    with pytest.raises(SystemExit, match="name it alone"):
        build_images.main([*names, "--variant", "vllm", "--engine", "buildah"])
