// Small helpers to create and update nodes without needless writes to the document.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// The last values written are kept here, because reading them back from the document costs more than the comparison.
const texts = new WeakMap();
const attributes = new WeakMap();

export function setText(node, text) {
  if (texts.get(node) === text) return;
  texts.set(node, text);
  // Changing the text node itself is cheaper than replacing it four times a second.
  if (node.firstChild && node.firstChild === node.lastChild && node.firstChild.nodeType === Node.TEXT_NODE) node.firstChild.data = text;
  else node.textContent = text;
}

export function setAttribute(node, name, value) {
  let written = attributes.get(node);
  if (!written) attributes.set(node, (written = {}));
  if (written[name] === value) return;
  written[name] = value;
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

// Scales a bar. Transforms need no layout; steps of half a percent avoid writes that cannot be seen.
export function setScale(node, axis, share) {
  const rounded = Math.round(Math.min(1, Math.max(0, share)) * 200) / 200;
  if (node.scaleWritten === rounded) return;
  node.scaleWritten = rounded;
  node.style.transform = `scale${axis}(${rounded})`;
}
