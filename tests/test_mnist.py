"""MNIST and MNIST-C from files in their published formats."""

import numpy as np
import pytest
import torch
from mnist_files import idx_bytes, write_mnist, write_mnist_c

from hardfast.data import load_mnist, load_mnist_c, mnist_c_corruptions


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw"])
def test_mnist_reads_idx_files(tmp_path, folder, gz):
    content = write_mnist(tmp_path / folder, gz=gz)
    splits = load_mnist(tmp_path, split_seed=3)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [27, 3, 10]
    expected = torch.from_numpy(content["t10k-images-idx3-ubyte"]).unsqueeze(1).float() / 255
    assert torch.equal(splits.test.images, expected)
    assert splits.test.labels.tolist() == content["t10k-labels-idx1-ubyte"].tolist()
    assert splits.test.labels.dtype == torch.int64
    # Each training image is once in train or validation, with its own label.
    images = torch.cat([splits.train.images, splits.validation.images])
    labels = torch.cat([splits.train.labels, splits.validation.labels])
    source = {
        image.tobytes(): int(label)
        for image, label in zip(content["train-images-idx3-ubyte"], content["train-labels-idx1-ubyte"], strict=True)
    }
    found = {(image * 255).round().byte().numpy().tobytes(): int(y) for image, y in zip(images, labels, strict=True)}
    assert found == source


def test_mnist_split_depends_on_its_seed(tmp_path):
    write_mnist(tmp_path, gz=False)
    first, again, other = (load_mnist(tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.images, again.validation.images)
    assert not torch.equal(first.validation.images, other.validation.images)


def test_mnist_missing_folder_says_what_and_where(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere" / "MNIST" / "raw" / "train-images-idx3-ubyte") in message
    assert "download=True" in message


def test_mnist_one_missing_file_is_named(tmp_path):
    write_mnist(tmp_path, gz=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("gz", [False, True])
def test_mnist_truncated_file_is_named(tmp_path, gz):
    write_mnist(tmp_path, gz=gz)
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * gz)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        load_mnist(tmp_path)


def test_mnist_not_idx_at_all_is_named(tmp_path):
    write_mnist(tmp_path, gz=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"<html>moved</html>")
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte"):
        load_mnist(tmp_path)


def test_mnist_labels_of_another_length_raise(tmp_path):
    write_mnist(tmp_path, gz=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(9, dtype=np.uint8)))
    with pytest.raises(ValueError, match="10 and 9"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 0.001])
def test_mnist_bad_validation_fraction_raises(tmp_path, fraction):
    write_mnist(tmp_path, gz=False)
    with pytest.raises(ValueError, match="validation_fraction"):
        load_mnist(tmp_path, validation_fraction=fraction)


@pytest.mark.parametrize("above", ["mnist_c", ""])
def test_mnist_c_reads_npy(tmp_path, above):
    images, labels = write_mnist_c(tmp_path / "mnist_c" / "translate")
    data = load_mnist_c(tmp_path / above, "translate")
    assert data.images.shape == (12, 1, 28, 28)
    assert torch.equal((data.images[:, 0] * 255).round().byte(), torch.from_numpy(images[..., 0]))
    assert data.labels.tolist() == labels.tolist()


def test_mnist_c_splits_are_different_files(tmp_path):
    write_mnist_c(tmp_path / "translate", "train", labels=np.zeros(12, dtype=np.int64))
    write_mnist_c(tmp_path / "translate", "test", labels=np.ones(12, dtype=np.uint8))
    assert load_mnist_c(tmp_path, "translate", "train").labels.unique().tolist() == [0]
    assert load_mnist_c(tmp_path, "translate", "test").labels.unique().tolist() == [1]
    with pytest.raises(ValueError, match="split"):
        load_mnist_c(tmp_path, "translate", "validation")


def test_mnist_c_missing_folder_says_what_and_where(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist_c(tmp_path, "translate")
    assert str(tmp_path / "translate" / "test_images.npy") in str(caught.value)
    assert "zenodo.org" in str(caught.value)


def test_mnist_c_corruptions_are_those_that_are_there(tmp_path):
    for number, name in enumerate(("zigzag", "identity", "fog")):
        write_mnist_c(tmp_path / "mnist_c" / name, labels=np.full(12, number))
    for root in (tmp_path, tmp_path / "mnist_c"):
        assert mnist_c_corruptions(root) == ("fog", "zigzag", "identity")
        assert load_mnist_c(root, "fog").labels.unique().tolist() == [2]
    with pytest.raises(FileNotFoundError, match=r"shear/test_images\.npy is missing.*zenodo\.org"):
        load_mnist_c(tmp_path, "shear")
    with pytest.raises(ValueError, match=r"corruption must be one of .*got 'rain'"):
        load_mnist_c(tmp_path, "rain")
    with pytest.raises(FileNotFoundError, match=r"holds no corruption, such as shot_noise.*zenodo"):
        mnist_c_corruptions(tmp_path / "nowhere")


def test_mnist_c_refuses_pickles(tmp_path):
    write_mnist_c(tmp_path / "translate", labels=np.array([object()] * 12, dtype=object))
    with pytest.raises(ValueError, match=r"test_labels\.npy"):
        load_mnist_c(tmp_path, "translate")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((12, 28, 28), np.uint8), None, r"test_images\.npy must be uint8 \[N, 28, 28, 1\]"),
        (np.zeros((12, 28, 28, 1), np.float32), None, r"test_images\.npy must be uint8"),
        (None, np.zeros(12), r"test_labels\.npy must be whole numbers"),
        (None, np.zeros(5, np.int64), "got 5 for 12"),
        (None, np.full(12, 10), "labels 0 to 9"),
    ],
)
def test_mnist_c_wrong_contents_raise(tmp_path, images, labels, message):
    write_mnist_c(tmp_path / "translate", images=images, labels=labels)
    with pytest.raises(ValueError, match=message):
        load_mnist_c(tmp_path, "translate")
