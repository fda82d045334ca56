// The frame, with outlines and clicks on top.

const SVG = "http://www.w3.org/2000/svg";
const stage = document.getElementById("stage");
const frame = document.getElementById("frame");
const marks = document.getElementById("marks");

/** Draw a view; its picture and its outlines appear together. */
export async function draw(state, picture, selected) {
  if (picture) {
    const image = await createImageBitmap(picture);
    if (frame.width !== image.width || frame.height !== image.height) {
      [frame.width, frame.height] = [image.width, image.height];
    }
    frame.getContext("2d").drawImage(image, 0, 0);
    image.close();
  }
  stage.hidden = state.width === 0;
  document.getElementById("empty").hidden = state.width > 0;
  if (stage.hidden) return marks.replaceChildren();
  stage.style.setProperty("--aspect", state.width / state.height);
  marks.setAttribute("viewBox", `0 0 ${state.width} ${state.height}`);
  marks.replaceChildren(
    ...state.objects.flatMap((object) => outline(object, object.id === selected)),
    ...state.clicks.flatMap((click) => dot(click, state.width)),
  );
}

/** Position of a pointer in pixels of the frame. */
export function position(event) {
  const box = stage.getBoundingClientRect();
  const { width, height } = marks.viewBox.baseVal;
  const inside = (value, size) => Math.min(Math.max(value, 0), size - 0.01);
  return {
    x: inside(((event.clientX - box.left) / box.width) * width, width),
    y: inside(((event.clientY - box.top) / box.height) * height, height),
  };
}

function outline(object, selected) {
  // Whole numbers are the centres of pixels in a view, but the corners of pixels in an SVG.
  const line = (numbers) => `M${numbers.map((number) => number + 0.5).join(" ")}Z`;
  const d = object.outlines.map(line).join("");
  return [
    element("path", { class: "halo", d }),
    element("path", {
      class: selected ? "object selected" : "object",
      d,
      fill: object.color,
      stroke: object.color,
      "data-object": object.id,
    }),
  ];
}

function dot({ x, y, label, color }, width) {
  const r = (6 * width) / (stage.clientWidth || width);
  const bar = `M${x - r / 2} ${y}h${r}`;
  return [
    element("circle", { class: "click", cx: x, cy: y, r, fill: label ? color : "#222" }),
    element("path", { class: "sign", d: label ? "" : bar }),
  ];
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
