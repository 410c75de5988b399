// What Mantine asks of a browser and jsdom lacks.
import { cleanup } from '@testing-library/react'
import { afterEach } from 'vitest'

window.matchMedia ??= (query: string) =>
  ({
    matches: false,
    media: query,
    onchange: null,
    addEventListener: () => {},
    removeEventListener: () => {},
    addListener: () => {},
    removeListener: () => {},
    dispatchEvent: () => false,
  }) as MediaQueryList

class NoObserver {
  observe() {}
  unobserve() {}
  disconnect() {}
}
window.ResizeObserver ??= NoObserver as unknown as typeof ResizeObserver
Element.prototype.scrollIntoView ??= () => {}

afterEach(() => cleanup())
