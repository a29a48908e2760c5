// Plays the controller manager: observations come on stdin, argv[1] numbers each, commands, argv[2]
// each, leave on stdout as floats. Activates again before the observation argv[3].
#include <cstdlib>
#include <string>

#include "controller_interface/controller_interface.hpp"

controller_interface::ControllerInterface * make_plugin();

int main(int, char ** argv)
{
  using controller_interface::CallbackReturn;
  using controller_interface::return_type;
  const std::size_t obs = std::strtoul(argv[1], nullptr, 10);
  const std::size_t actions = std::strtoul(argv[2], nullptr, 10);
  std::unique_ptr<controller_interface::ControllerInterface> controller(make_plugin());
  controller->on_init();
  if (controller->on_configure({}) != CallbackReturn::ERROR) {
    return 3;
  }
  auto & given = controller->get_node()->parameters;
  given["observations"] = std::vector<std::string>(obs, "joint/position");
  given["actions"] = std::vector<std::string>(actions, "joint/effort");
  if (controller->on_configure({}) != CallbackReturn::SUCCESS) {
    return 4;
  }
  controller->state_interfaces_.resize(controller->state_interface_configuration().names.size());
  controller->command_interfaces_.resize(
    controller->command_interface_configuration().names.size());
  std::vector<float> numbers(obs);
  for (int row = 0; std::fread(numbers.data(), sizeof(float), obs, stdin) == obs; row++) {
    if (row == 0 || row == std::atoi(argv[3])) {
      controller->on_activate({});
    }
    for (std::size_t i = 0; i < obs; i++) {
      controller->state_interfaces_[i].set_value(static_cast<double>(numbers[i]));
    }
    if (controller->update({}, {}) != return_type::OK) {
      return 5;
    }
    for (const auto & each : controller->command_interfaces_) {
      const float value = static_cast<float>(each.get_value());
      std::fwrite(&value, sizeof value, 1, stdout);
    }
  }
  return 0;
}
