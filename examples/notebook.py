# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two curricula, side by side
#
# Trains a small model with random masks and with masks of hard patches, on data that comes with the packages. It takes
# about a minute on a CPU, and writes into the folder `runs`.

# %%
import matplotlib.pyplot as plt

import hpm

settings = [
    "Schedule.epochs = 3",
    "Monitoring.evaluations = [@HardnessShare(), @KNN()]",
    "MLflowTracker.enabled = False",
]
random = hpm.train("quickstart", "curricula/random", bindings=settings, quiet=True)
hard = hpm.train("quickstart", "curricula/true_loss", bindings=settings, quiet=True)

# %% [markdown]
# ## The losses
#
# Under the curriculum the loss is that of harder patches, so the curves must not be compared with each other: each is
# compared with itself.

# %%
figure, (losses, alphas) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for name, run in (("random masks", random), ("true loss", hard)):
    losses.plot(*run.history("reconstruction_loss"), label=name)
    alphas.plot(*run.history("alpha"), label=name)
losses.set(xlabel="step", ylabel="reconstruction loss")
alphas.set(xlabel="step", ylabel="alpha")
losses.legend()
plt.show()

# %% [markdown]
# ## What is masked
#
# The model of the second run scores every patch by its true loss. At the start of training alpha is 0 and its masks are
# random; at the end half of each mask is what is hardest.

# %%
model = hpm.load(hard)
images = model.validation_images(4)
pixels = model.pixels(images)
scores = model.difficulty(images)
rows, columns = model.masked_model.grid

figure, axes = plt.subplots(4, 4, figsize=(8, 8), layout="constrained")
for row in range(4):
    shown = [pixels[row].permute(1, 2, 0), scores[row].reshape(rows, columns)]
    for progress in (0.0, 1.0):
        mask = model.draw_mask(images, progress=progress).to_bool()[row].reshape(rows, columns)
        shown.append(mask.float())
    for axis, picture, title in zip(axes[row], shown, ("image", "true loss", "first mask", "last mask"), strict=True):
        axis.imshow(picture, cmap="viridis")
        axis.set_axis_off()
        if row == 0:
            axis.set_title(title)
plt.show()

# %% [markdown]
# ## What the model makes of it

# %%
mask = model.draw_mask(images, progress=0.0)
restored = model.reconstruct(images, mask)
figure, axes = plt.subplots(2, 4, figsize=(8, 4), layout="constrained")
for column in range(4):
    axes[0, column].imshow(pixels[column].permute(1, 2, 0))
    axes[1, column].imshow(restored[column].permute(1, 2, 0))
    for axis in axes[:, column]:
        axis.set_axis_off()
plt.show()

# %% [markdown]
# ## Is what is masked hard, and what has been learned?
#
# The share of attainable hardness is 0 for random masks and 1 for a curriculum that finds the hardest patches. The
# accuracies are of k-NN on frozen features. One run each does not say which curriculum is better: for that there are
# studies.

# %%
for name, run in (("random masks", random), ("true loss", hard)):
    share = run.metrics["curriculum/hardness_share"]
    accuracy = run.metrics["knn/pretrained"]
    print(f"{name:12}  hardness share {share:4.0%}   k-NN {accuracy:.1%}")
