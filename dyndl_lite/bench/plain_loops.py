"""The loops people write, in full, so that a reader can judge whether they are fair."""

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from dyndl_lite.dynamic.network import dynamic_network
from dyndl_lite.models.cnn import Layout


class PlainBackprop:
    """Backprop as people write it: an nn.Module, autograd, an optimiser, one example."""

    STEP_SIZE, MOMENTUM = 0.003, 0.0

    def __init__(self, sizes: tuple[int, ...] | Layout):
        self.layers = nn.ModuleList(self.modules(sizes))
        for layer in self.layers:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.optimiser = torch.optim.SGD(self.layers.parameters(), self.STEP_SIZE, self.MOMENTUM)

    def modules(self, sizes: tuple[int, ...]) -> list[nn.Module]:
        """Make the layers."""
        return [nn.Linear(i, o) for i, o in zip(sizes, sizes[1:])]

    def predict(self, x: Tensor) -> Tensor:
        """Give the outputs, and keep the features."""
        h, self.features = x, []
        for layer in self.layers[:-1]:
            h = torch.relu(layer(h))
            self.features.append(h)
        return self.layers[-1](h)

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Take one gradient step; give the score before it."""
        output = self.predict(x)
        loss = F.mse_loss(output, y) if y.is_floating_point() else F.cross_entropy(output, y)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return self.score(loss, output, y)

    def score(self, loss: Tensor, output: Tensor, y: Tensor) -> float:
        """Give the loss."""
        return loss.item()


class PlainConvBackprop(PlainBackprop):
    """The same for a minibatch of images: convolutions and momentum."""

    STEP_SIZE, MOMENTUM = 0.01, 0.9

    def __init__(self, layout: Layout):
        super().__init__(layout)
        nn.init.zeros_(self.layers[-1].weight)

    def modules(self, layout: Layout) -> list[nn.Module]:
        return [nn.Conv2d(*shape[1::-1], shape[2]) if len(shape) > 2 else nn.Linear(*shape[::-1])
                for shape in layout.weights()]

    def predict(self, x: Tensor) -> Tensor:
        h, self.features = x, []
        for layer in self.layers[:-1]:
            h = torch.relu(layer(h if isinstance(layer, nn.Conv2d) else h.flatten(1)))
            if h.ndim > 2 and h.shape[-1] > 1:
                h = F.max_pool2d(h, 2)
            self.features.append(h)
        return self.layers[-1](h.flatten(1))

    def score(self, loss: Tensor, output: Tensor, y: Tensor) -> float:
        """Give the share of right predictions."""
        return (output.argmax(1) == y).float().mean().item()


class PlainContinualBackprop(PlainBackprop):
    """Continual backprop (contribution utility) in the same style, replacing when it is due."""

    REPLACEMENT_RATE, DECAY, MATURITY = 1e-4, 0.99, 100

    def __init__(self, sizes: tuple[int, ...] | Layout):
        super().__init__(sizes)
        units = [len(layer.bias) for layer in self.layers[:-1]]
        self.utility, self.mean, self.age = ([torch.zeros(n) for n in units] for _ in range(3))
        self.due = [0.0 for n in units]

    @torch.no_grad()
    def generate_and_test(self) -> None:
        """Update the utilities; replace the least useful mature unit of a layer that owes one."""
        for i, features in enumerate(self.features):
            layer, after, n = self.layers[i], self.layers[i + 1], len(self.age[i])
            h = features.flatten(2).mean((0, 2)) if features.ndim > 2 else features.mean(0)
            heard = after.weight.view(len(after.weight), n, -1)  # [listeners, units, places]
            self.age[i] += 1
            correction = 1 - self.DECAY ** self.age[i]
            self.mean[i] = self.DECAY * self.mean[i] + (1 - self.DECAY) * h
            contribution = h * heard.abs().sum((0, 2))  # h is not negative, after a ReLU
            self.utility[i] = self.DECAY * self.utility[i] + (1 - self.DECAY) * contribution
            mature = torch.where(self.age[i] > self.MATURITY)[0]
            self.due[i] += self.REPLACEMENT_RATE * len(mature)
            if self.due[i] >= 1:
                self.due[i] -= 1
                k = mature[(self.utility[i] / correction)[mature].argmin()]
                nn.init.kaiming_uniform_(layer.weight[k:k + 1], nonlinearity="relu")
                layer.bias[k] = 0
                after.bias += heard[:, k].sum(1) * self.mean[i][k] / correction[k]
                heard[:, k] = 0
                self.utility[i][k] = self.mean[i][k] = self.age[i][k] = 0
                if self.MOMENTUM:
                    self.forget(layer, after, n, k)

    def forget(self, layer: nn.Module, after: nn.Module, n: int, k: Tensor) -> None:
        """Clear the momentum of the weights into and out of unit k of a layer of n."""
        trace = {p: state["momentum_buffer"] for p, state in self.optimiser.state.items()}
        trace[layer.weight][k] = trace[layer.bias][k] = 0
        trace[after.weight].view(len(after.weight), n, -1)[:, k] = 0

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Take one gradient step, then one generate-and-test step."""
        score = super().learn(x, y)
        self.generate_and_test()
        return score


class PlainConvContinualBackprop(PlainContinualBackprop, PlainConvBackprop):
    """The same for a minibatch of images: channels and units are replaced when they are due."""

    REPLACEMENT_RATE = 3e-4


class PlainDynamic:
    """The dynamic network. Nobody has published a loop of it: this is our own step, uncompiled."""

    def __init__(self, sizes: tuple[int, ...]):
        learner = dynamic_network(*sizes)
        self.step, self.net = learner.step, learner.start(torch.tensor(0))
        self.hyper = {name: torch.tensor(float(v)) for name, v in learner.settings.items()}

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Take one step of one network; give its squared error."""
        self.net, score = self.step(self.net, self.hyper, x[0], y[0])
        return score.item()
