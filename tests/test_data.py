import sys

import numpy as np
import pytest
import torch

from utils.data import draw_squares, eval_loader, split, stratified_sample, train_loader

IMAGES, LABELS = draw_squares(240, seed=0)


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return torch.cat([images for images, _ in loader])


def augmentations(seed=0, workers=0, epochs=1):
    """Augmented copies of one image, so that whatever differs is the augmentation."""
    same = np.repeat(IMAGES[:1], 64, axis=0)
    loader = train_loader(same, np.zeros(64, int), batch_size=8, seed=seed, workers=workers)
    return [epoch_of(loader, epoch) for epoch in range(epochs)]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_augmentation_repeats_between_workers_or_epochs(workers):
    images = torch.cat(augmentations(workers=workers, epochs=3)).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images)


def test_augmentation_repeats_for_the_same_seed_whatever_the_workers():
    first = augmentations(seed=1, workers=0, epochs=2)
    for workers in (1, 2):
        for expected, found in zip(first, augmentations(seed=1, workers=workers, epochs=2), strict=True):
            assert torch.equal(expected, found)
    assert not torch.equal(first[0], augmentations(seed=2)[0])


def test_any_epoch_can_be_drawn_alone():
    loader = train_loader(IMAGES, LABELS, batch_size=32, seed=0, workers=1)
    in_order = [epoch_of(loader, epoch) for epoch in range(3)]
    assert torch.equal(in_order[2], epoch_of(train_loader(IMAGES, LABELS, 32, seed=0), 2))


def test_the_steps_of_the_augmentation_are_independent():
    """albumentations seeds every step alike by `set_random_seed`; the rotation then follows the crop."""
    loader = train_loader(np.repeat(IMAGES[:1], 300, axis=0), np.zeros(300, int), batch_size=1, seed=0)
    loader.dataset.augment.save_applied_params = True
    draws = []
    apply = loader.dataset.augment
    loader.dataset.augment = lambda image: record(apply(image=image), draws)
    loader.dataset.augment.set_random_state = apply.set_random_state
    list(loader)
    correlation = np.corrcoef(np.array(draws).T) - np.eye(5)
    assert np.abs(correlation).max() < 0.25


def record(result, draws):
    steps = dict(result["applied_transforms"])
    left, top = steps["RandomCrop"]["crop_coords"][:2]
    draws.append([left, top, *steps["CoarseDropout"]["holes"][0][:2], steps["Rotate"]["matrix"][0][1]])
    return result


def test_training_batches_are_whole_and_evaluation_is_in_order():
    loader = train_loader(IMAGES, LABELS, batch_size=100, seed=0)
    assert [len(labels) for _, labels in loader] == [100, 100]
    assert torch.equal(torch.cat([labels for _, labels in eval_loader(IMAGES, LABELS, 100)]), torch.tensor(LABELS))


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="take more or lower the batch size"):
        train_loader(IMAGES[:5], LABELS[:5], batch_size=8, seed=0)
    with pytest.raises(ValueError, match="no images"):
        eval_loader(IMAGES[:0], LABELS[:0])


def test_stratified_sample_is_even_and_seeded():
    sample = stratified_sample(LABELS, 50, seed=0)
    assert np.bincount(LABELS[sample]).tolist() == [5] * 10 and len(set(sample)) == 50
    assert np.array_equal(sample, stratified_sample(LABELS, 50, seed=0))
    assert not np.array_equal(sample, stratified_sample(LABELS, 50, seed=1))
    for count in (55, 1000):
        with pytest.raises(ValueError, match="evenly"):
            stratified_sample(LABELS, count, seed=0)


def test_the_split_is_even_and_disjoint():
    train, validation = split(LABELS, 160, 40, seed=0)
    assert len({*train, *validation}) == 200
    assert np.bincount(LABELS[train]).tolist() == [16] * 10 and np.bincount(LABELS[validation]).tolist() == [4] * 10


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere fork is unsafe or missing")
def test_workers_share_the_images_by_fork():
    loader = train_loader(IMAGES, LABELS, batch_size=32, seed=0, workers=1)
    assert loader.multiprocessing_context.get_start_method() == "fork"


def test_the_standin_repeats_and_its_classes_differ_by_hue():
    images, labels = draw_squares(40, seed=3)
    assert np.array_equal(images, draw_squares(40, seed=3)[0]) and not np.array_equal(
        images, draw_squares(40, seed=4)[0]
    )
    assert images.shape == (40, 32, 32, 3) and images.dtype == np.uint8
    brightest = images.mean((1, 2)).argmax(1)
    assert brightest[labels == 0].tolist() == [0] * 4 and brightest[labels == 3].tolist() == [2] * 4


def test_real_cifar10_is_whole(cifar10):
    assert cifar10.name == "CIFAR-10" and cifar10.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(cifar10.test_labels).tolist() == [1_000] * 10
