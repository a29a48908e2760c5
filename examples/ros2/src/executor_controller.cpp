// A controller of ros2_control: reads state interfaces, lets an executor decide, writes command
// interfaces. The parameters observations and actions name them, in the executor's order.
#include <string>
#include <vector>

#include "controller_interface/controller_interface.hpp"
#include "executor.h"
#include "pluginlib/class_list_macros.hpp"

namespace agentkd_ros2
{

using controller_interface::CallbackReturn;
using controller_interface::InterfaceConfiguration;
using controller_interface::interface_configuration_type;
using controller_interface::return_type;

class ExecutorController : public controller_interface::ControllerInterface
{
public:
  CallbackReturn on_init() override
  {
    auto_declare<std::vector<std::string>>("observations", {});
    auto_declare<std::vector<std::string>>("actions", {});
    return CallbackReturn::SUCCESS;
  }

  InterfaceConfiguration command_interface_configuration() const override
  {
    return {interface_configuration_type::INDIVIDUAL, actions_};
  }

  InterfaceConfiguration state_interface_configuration() const override
  {
    return {interface_configuration_type::INDIVIDUAL, observations_};
  }

  CallbackReturn on_configure(const rclcpp_lifecycle::State &) override
  {
    observations_ = get_node()->get_parameter("observations").as_string_array();
    actions_ = get_node()->get_parameter("actions").as_string_array();
    if (observations_.size() != EXECUTOR_OBS || actions_.size() != EXECUTOR_ACTION) {
      RCLCPP_ERROR(
        get_node()->get_logger(),
        "observations names %zu interfaces and actions %zu; the executor takes %d and gives %d.",
        observations_.size(), actions_.size(), EXECUTOR_OBS, EXECUTOR_ACTION);
      return CallbackReturn::ERROR;
    }
    return CallbackReturn::SUCCESS;
  }

  CallbackReturn on_activate(const rclcpp_lifecycle::State &) override
  {
    executor_reset(&state_);
    return CallbackReturn::SUCCESS;
  }

  // Allocates nothing and takes no lock. An error keeps the last commands, and the controller
  // manager then does what it is set up to do.
  return_type update(const rclcpp::Time &, const rclcpp::Duration &) override
  {
    float obs[EXECUTOR_OBS];
    executor_number action[EXECUTOR_ACTION];
    for (int i = 0; i < EXECUTOR_OBS; i++) {
      obs[i] = static_cast<float>(state_interfaces_[i].get_value());
    }
    if (executor_step(&state_, obs, action, nullptr) != 0) {
      return return_type::ERROR;
    }
    for (int i = 0; i < EXECUTOR_ACTION; i++) {
      command_interfaces_[i].set_value(static_cast<double>(action[i]));
    }
    return return_type::OK;
  }

private:
  executor_state state_;
  std::vector<std::string> observations_, actions_;
};

}  // namespace agentkd_ros2

PLUGINLIB_EXPORT_CLASS(
  agentkd_ros2::ExecutorController, controller_interface::ControllerInterface)
