"use strict";
// The viewer: NiiVue on the volumes inside the page. Nothing is loaded from anywhere.
(() => {
  const element = (name) => document.getElementById(`viewer-${name}`);
  const facts = JSON.parse(element("facts").textContent);
  const canvas = element("canvas");
  const here = element("here");
  let shown = null; // the case that is shown: its number, size and label maps as arrays of class indices
  let viewer = null;

  if (!document.createElement("canvas").getContext("webgl2")) {
    here.textContent = "This browser has no WebGL 2, which the viewer needs. The pictures above show the same cases.";
    return;
  }

  async function bytesOf(number, name) {
    const text = document.getElementById(`volume-${number}-${name}`).textContent;
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // Header of 352 bytes, then class indices of one or two bytes: NIfTI-1, as the report writes it.
  function indicesIn(buffer) {
    const bits = new DataView(buffer).getInt16(72, true);
    return bits === 8 ? new Uint8Array(buffer, 352) : new Int16Array(buffer, 352);
  }

  function errorsOf(reference, prediction) {
    return prediction.map((found, i) => (found === reference[i] ? 0 : reference[i] || found));
  }

  const colors = {
    R: facts.labels.map((label) => label.color[0]),
    G: facts.labels.map((label) => label.color[1]),
    B: facts.labels.map((label) => label.color[2]),
    A: facts.labels.map((_, index) => (index ? 255 : 0)),
    I: facts.labels.map((_, index) => index),
    labels: facts.labels.map((label) => label.name),
  };

  async function start() {
    viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [1, 1, 1, 0.7],
      crosshairWidth: 0.3,
      crosshairWidthUnit: "percent",
      fontColor: [1, 1, 1, 0.85],
      showAllOrientationMarkers: true,
      dragAndDropEnabled: false,
      loadingText: "",
      isColorbar: false,
      isNearestInterpolation: true,
      multiplanarShowRender: 0,
      logLevel: "error",
    });
    await viewer.attachToCanvas(canvas);
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    viewer.onLocationChange = describe;
  }

  async function show(number) {
    here.textContent = "Loading…";
    if (viewer === null) await start();
    const [image, reference, prediction] = await Promise.all(
      ["image", "reference", "prediction"].map((name) => bytesOf(number, name)),
    );
    const size = [42, 44, 46].map((place) => new DataView(image).getInt16(place, true));
    shown = { number, size, reference: indicesIn(reference), prediction: indicesIn(prediction) };
    shown.errors = errorsOf(shown.reference, shown.prediction);
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
    viewer.addVolume(await niivue.NVImage.new(image, "image.nii", "gray", 1));
    const overlay = await niivue.NVImage.new(prediction.slice(0), "labels.nii", "gray", 0.5);
    overlay.setColormapLabel(structuredClone(colors));
    viewer.addVolume(overlay);
    listPlaces(facts.cases[number]);
    paint();
    goTo(0);
    canvas.dataset.shows = facts.cases[number].id;
  }

  function paint() {
    if (shown === null) return;
    const wanted = document.querySelector("input[name=viewer-map]:checked").value;
    const outlines = element("outline").checked;
    viewer.opts.atlasOutline = outlines ? 1 : 0;
    viewer.volumes[1].img.set(shown[wanted]);
    viewer.setOpacity(1, outlines ? 0 : Number(element("opacity").value)); // draws anew
  }

  function listPlaces(facts_of_case) {
    const options = facts_of_case.places.map((place) => new Option(`${place.name} (${place.ml.toFixed(2)} ml wrong)`));
    element("place").replaceChildren(...options);
    element("place").disabled = options.length === 0;
  }

  function goTo(index) {
    const place = facts.cases[shown.number].places[index];
    const voxel = place ? place.voxel : shown.size.map((n) => Math.floor(n / 2));
    viewer.scene.crosshairPos = viewer.vox2frac(voxel);
    viewer.createOnLocationChange();
    viewer.drawScene();
  }

  function describe(location) {
    if (shown === null) return;
    const [x, y, z] = [0, 1, 2].map((axis) => Math.min(Math.max(Math.round(location.vox[axis]), 0), shown.size[axis] - 1));
    const at = x + shown.size[0] * (y + shown.size[1] * z);
    const name = (map) => facts.labels[shown[map][at]].name;
    const mm = [0, 1, 2].map((axis) => location.mm[axis].toFixed(1)).join(", ");
    const step = facts.cases[shown.number].step;
    const coarse = step > 1 ? ` · every ${step === 2 ? "second" : `${step}th`} voxel` : "";
    here.textContent = `${mm} mm · reference: ${name("reference")} · prediction: ${name("prediction")}${coarse}`;
  }

  const steps = {
    ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
    PageUp: [0, 0, 1], PageDown: [0, 0, -1],
  };
  const letters = { r: "reference", p: "prediction", e: "errors" };

  // Capture: NiiVue's own keys, some of which open dialogs, would act as well.
  canvas.parentElement.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopPropagation();
    if (viewer === null || shown === null) return;
    if (event.key in steps) {
      viewer.moveCrosshairInVox(...steps[event.key]);
      event.preventDefault();
    } else if (event.key in letters) {
      document.querySelector(`input[name=viewer-map][value=${letters[event.key]}]`).checked = true;
      paint();
      event.preventDefault();
    }
  }, true);
  canvas.parentElement.addEventListener("keyup", (event) => event.stopPropagation(), true);

  let queue = Promise.resolve();
  function open(number) {
    queue = queue.then(() => show(number)).catch((error) => {
      here.textContent = `The viewer cannot show this case (${error.message}).`;
    });
    return queue;
  }

  element("case").addEventListener("change", () => open(Number(element("case").value)));
  element("place").addEventListener("change", () => goTo(element("place").selectedIndex));
  for (const input of document.querySelectorAll("input[name=viewer-map], #viewer-opacity, #viewer-outline")) {
    input.addEventListener("input", paint);
  }
  for (const button of document.querySelectorAll("button.open")) {
    button.addEventListener("click", () => {
      const number = facts.cases.findIndex((one) => one.id === button.dataset.case);
      element("case").value = String(number);
      document.getElementById("viewer").scrollIntoView();
      canvas.focus({ preventScroll: true });
      if (shown === null || shown.number !== number) open(number);
    });
  }

  // The first case is unpacked when the viewer comes into sight.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    if (shown === null) open(Number(element("case").value));
  }, { rootMargin: "300px" }).observe(canvas);
})();
