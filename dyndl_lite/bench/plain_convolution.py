"""The loop people write for minibatches of images, in full: what `bench` holds ours against."""

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from dyndl_lite.models.cnn import Layout

STEP_SIZE, REPLACEMENT_RATE, DECAY, MATURITY = 0.01, 3e-4, 0.99, 100


class PlainConvBackprop:
    """An nn.Module, autograd, SGD with momentum, one network, a minibatch at a time."""

    def __init__(self, layout: Layout):
        self.layers = nn.ModuleList()
        for shape in layout.weights():
            layer = nn.Conv2d(*shape[1::-1], shape[2]) if len(shape) > 2 else nn.Linear(*shape[::-1])
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)
        nn.init.zeros_(self.layers[-1].weight)
        self.optimiser = torch.optim.SGD(self.layers.parameters(), STEP_SIZE, momentum=0.9)

    def predict(self, x: Tensor) -> Tensor:
        """Give the outputs, and keep the features."""
        h, self.features = x, []
        for layer in self.layers[:-1]:
            if isinstance(layer, nn.Conv2d):
                h = torch.relu(layer(h))
                h = F.max_pool2d(h, 2) if h.shape[-1] > 1 else h
            else:
                h = torch.relu(layer(h.flatten(1)))
            self.features.append(h)
        return self.layers[-1](h.flatten(1))

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Take one gradient step on a minibatch; give the share of right predictions before it."""
        output = self.predict(x)
        loss = F.cross_entropy(output, y)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return (output.argmax(1) == y).float().mean().item()


class PlainConvContinualBackprop(PlainConvBackprop):
    """Continual backprop in the same style: channels and units are replaced when they are due."""

    def __init__(self, layout: Layout):
        super().__init__(layout)
        sizes = [len(layer.bias) for layer in self.layers[:-1]]
        self.utility = [torch.zeros(n) for n in sizes]
        self.mean = [torch.zeros(n) for n in sizes]
        self.age = [torch.zeros(n) for n in sizes]
        self.due = [0.0 for n in sizes]

    @torch.no_grad()
    def generate_and_test(self) -> None:
        """Update the utilities; replace the least useful mature unit of a layer that owes one."""
        for i, features in enumerate(self.features):
            layer, after, n = self.layers[i], self.layers[i + 1], len(self.age[i])
            h = features.flatten(2).mean((0, 2)) if features.ndim > 2 else features.mean(0)
            heard = after.weight.view(len(after.weight), n, -1)  # [listeners, units, places]
            self.age[i] += 1
            correction = 1 - DECAY ** self.age[i]
            self.mean[i] = DECAY * self.mean[i] + (1 - DECAY) * h
            contribution = h * heard.abs().sum((0, 2))
            self.utility[i] = DECAY * self.utility[i] + (1 - DECAY) * contribution
            mature = torch.where(self.age[i] > MATURITY)[0]
            self.due[i] += REPLACEMENT_RATE * len(mature)
            if self.due[i] >= 1:
                self.due[i] -= 1
                k = mature[(self.utility[i] / correction)[mature].argmin()]
                nn.init.kaiming_uniform_(layer.weight[k:k + 1], nonlinearity="relu")
                layer.bias[k] = 0
                after.bias += heard[:, k].sum(1) * self.mean[i][k] / correction[k]
                heard[:, k] = 0
                self.utility[i][k] = self.mean[i][k] = self.age[i][k] = 0
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
